# Copyright 2026 The scl_jax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
# ==============================================================================
"""Which unit of a Linen model feeds which input of a later layer.

Layers are `nn.Dense`, `nn.Conv`, `Conv3x3` and `Join`, in the order in which
the model calls them. Who feeds whom is read from the graph of the code between
them (flattening, pooling, activations, concatenation): `scl_jax.reachability`
says which of their inputs depend on a unit. What it does not know depends on
everything, and is not supported.

Supported are models in which an input comes from one unit at most; sums of
several are to be a `Join`, whose branch nothing else reads, and only a layer
reads its own weights. Everything else raises.
"""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import join
from experiments.models import layers
from scl_jax import reachability
from scl_jax import tree as tree_lib

# What this module looks at; normalisation is looked at, but is no layer.
CONVOLUTIONS = (nn.Conv, layers.Conv3x3)
LAYERS = (nn.Dense, *CONVOLUTIONS, join.Join)
_SEEN = (*LAYERS, nn.BatchNorm)

# Names for the model's input and output that no module has.
_DATA, _OUTPUT = '(input)', '(output)'
# Units that are followed at once.
_PROBES = 64


class Call(NamedTuple):
  """One call of a module.

  Attributes:
    name: Its path, such as `'Dense_0'`.
    module: The module.
    inputs: What it is applied to, [examples, ..., inputs]; of a `Join` both
      sides, along the last axis.
    output: What it returns, [examples, ..., units].
  """

  name: str
  module: nn.Module
  inputs: jax.Array
  output: jax.Array


class Flow(NamedTuple):
  """What `trace` finds.

  Attributes:
    modules: The layers, in the order of their calls.
    units: The number of units of each.
    feeds: For pairs (layer, later layer), which units are which inputs, bool
      [units, inputs].
    in_output: Which units the model's output contains, bool [units].
    norms: For pairs (layer, normalisation), which units are which channels.
  """

  modules: dict[str, nn.Module]
  units: dict[str, int]
  feeds: dict[tuple[str, str], np.ndarray]
  in_output: dict[str, np.ndarray]
  norms: dict[tuple[str, str], np.ndarray]


def visit(
  model: nn.Module,
  variables: Any,
  images: jax.Array,
  look: Callable[[Call], jax.Array | None],
) -> Any:
  """Applies a model and shows each call of a layer or normalisation.

  Args:
    model: A Linen module.
    variables: Its variables.
    images: What it is applied to.
    look: Is shown each `Call`; what it returns, unless `None`, replaces the
      output.

  Returns:
    The model's output.

  Raises:
    ValueError: If a module is called twice, or without examples.
  """
  names = set()

  def intercept(call_next, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or type(module) not in _SEEN:
      return call_next(*args, **kwargs)
    name = '/'.join(module.path)
    if name in names:
      raise ValueError(
        f'The module {name!r} is called twice; weights that are used in two '
        'places are not supported.'
      )
    names.add(name)
    # By name, as a caller may give them in any order.
    signature = inspect.signature(type(module).__call__)
    given = signature.bind(module, *args, **kwargs).arguments
    _, inputs, *_ = given.values()
    if isinstance(module, nn.BatchNorm):
      _check_norm(name, module, given.get('use_running_average'))
    output = call_next(*args, **kwargs)
    if isinstance(module, join.Join):
      sides = [given['branch'], given['shortcut']]
      inputs = jnp.concatenate(sides, axis=-1)
    if inputs.ndim < 2:
      raise ValueError(
        f'The module {name!r} is applied to {inputs.shape}, which has no axis '
        'of examples.'
      )
    new_output = look(Call(name, module, inputs, output))
    return output if new_output is None else new_output

  with nn.intercept_methods(intercept):
    return model.apply(variables, images)


def _check_norm(name: str, module: nn.BatchNorm, running: bool | None) -> None:
  if running is None:
    running = module.use_running_average
  if not running or module.axis != -1:
    raise ValueError(
      f'The normalisation {name!r} must use running averages and the last '
      f'axis; got use_running_average={running} and axis={module.axis}.'
    )


def trace(model: nn.Module, variables: Any, images: jax.Array) -> Flow:
  """Finds out which unit feeds which input.

  Args:
    model: A Linen module; called as it is evaluated, without randomness.
    variables: Its variables.
    images: Examples, float; only their shape is used.

  Returns:
    A `Flow`.

  Raises:
    ValueError: If an input of a layer comes from several units, from a unit and
      the model's input, or a unit changes nothing; if weights of a layer, or
      the branch of a join, are read elsewhere; if input or output of the model
      is not one array.
  """
  modules: dict[str, nn.Module] = {}
  units: dict[str, int] = {}
  norms = []

  def note(call):
    if isinstance(call.module, nn.BatchNorm):
      norms.append(call.name)
    else:
      modules[call.name] = call.module
      units[call.name] = call.output.shape[-1]

  if not isinstance(images, jax.Array | np.ndarray) or not len(images):
    raise ValueError(
      'images must be one array [examples, ...] with an example or more, got '
      f'{jax.tree.map(jnp.shape, images)}.'
    )
  output = jax.eval_shape(
    lambda variables, images: visit(model, variables, images, note),
    variables,
    images[:1],
  )
  if not isinstance(output, jax.ShapeDtypeStruct):
    raise ValueError(
      f'{type(model).__name__} must return one array, as only of that it is '
      f'known which units it contains; got {jax.tree.map(jnp.shape, output)}.'
    )
  if not modules:
    raise ValueError(
      f'{type(model).__name__} calls no nn.Dense and no nn.Conv, so there is '
      'nothing to prune.'
    )
  _check_weights(model, variables, images, units)
  reached = _reached(model, variables, images.shape[1:], units)
  _check(reached)

  def pairs(targets):
    return {
      (source, target): reached[source][target]
      for target in targets
      for source in modules
      if reached[source][target].any()
    }

  flow = Flow(
    modules,
    units,
    feeds=pairs(modules),
    in_output={
      name: np.any(reached[name][_OUTPUT], axis=1) for name in modules
    },
    norms=pairs(norms),
  )
  _check_joins(flow)
  return flow


def _between(
  model: nn.Module, variables: Any, outputs: dict[str, Any], images: jax.Array
) -> dict[str, jax.Array]:
  """The code between layers, from their outputs to their inputs."""
  seen = {}

  def replace(call):
    seen[call.name] = call.inputs
    if isinstance(call.module, nn.BatchNorm):
      return call.inputs  # whatever its parameters, channel by channel
    output = jnp.broadcast_to(outputs[call.name], call.output.shape)
    return output.astype(call.output.dtype)

  output = visit(model, variables, images, replace)
  return {**seen, _OUTPUT: output}


def _check_weights(
  model: nn.Module, variables: Any, images: jax.Array, units: dict[str, int]
) -> None:
  """Raises if more than a layer itself reads its weights."""
  outputs = {name: jnp.zeros(n) for name, n in units.items()}
  inputs = (variables['params'], outputs, images[:1])
  is_of_layer = tree_lib.map_with_path(
    lambda path, leaf: jnp.full(
      jnp.shape(leaf), float(path.rpartition('/')[0] in units)
    ),
    variables['params'],
  )
  # Outputs and images are inputs too: as constants they would be 0 at places,
  # and a product with them would hide the weights.
  marks = (is_of_layer, *jax.tree.map(jnp.zeros_like, inputs[1:]))

  @jax.jit  # so that layers, whose outputs are replaced, are not computed
  def follow(marks):
    return reachability.reached(
      lambda params, outputs, images: _between(
        model, {**variables, 'params': params}, outputs, images
      ),
      inputs,
      marks,
    )

  for target, found in follow(marks).items():
    if found.any():
      raise ValueError(
        f'Weights of a layer go into {target!r} in another way than through '
        'the layer; weights that are used in two places are not supported.'
      )


def _check_joins(flow: Flow) -> None:
  """Raises if a branch of a join is not the join's alone.

  It is closed by removing the unit that it comes from; shortcuts have gates.
  """
  for name, module in flow.modules.items():
    if not isinstance(module, join.Join):
      continue
    width = flow.units[name]  # inputs are the branch's, then the shortcut's
    is_fed = np.zeros(width, bool)
    for (source, target), matrix in flow.feeds.items():
      if target != name:
        continue
      is_fed |= matrix[:, :width].any(axis=0)
      elsewhere = [
        flow.in_output[source],
        matrix[:, width:].any(axis=1),
        *(
          other.any(axis=1)
          for (feeder, reader), other in flow.feeds.items()
          if feeder == source and reader != name
        ),
      ]
      is_read = np.any(elsewhere, axis=0)
      if (is_read & matrix[:, :width].any(axis=1)).any():
        raise ValueError(
          f'Units of {source!r} are a branch of {name!r} and read elsewhere '
          'too: give the join what only it reads as the branch.'
        )
    if not is_fed.all():
      raise ValueError(
        f'The branch of {name!r} must come from a layer: give the input of the '
        'model as the shortcut.'
      )


def _reached(
  model: nn.Module,
  variables: Any,
  shape: tuple[int, ...],
  units: dict[str, int],
) -> dict[str, dict[str, np.ndarray]]:
  """What depends on a unit, or on the model's input.

  Returns:
    For each layer and `_DATA`, for each module and `_OUTPUT`: which of its
    inputs, bool [units, inputs].
  """
  between = functools.partial(_between, model, variables)
  sources = {_DATA: 1, **units}
  stops = np.cumsum(list(sources.values()))

  def follow(marks):
    """Where the marked units go; marks are [units of all sources]."""
    parts = dict(zip(sources, jnp.split(marks, stops[:-1]), strict=True))
    images = jnp.broadcast_to(parts.pop(_DATA), (1, *shape))
    found = reachability.reached(between, (parts, images), (parts, images))
    return jax.tree.map(lambda x: x.any(axis=tuple(range(x.ndim - 1))), found)

  @jax.jit
  def follow_each(marks):
    return jax.lax.map(follow, marks, batch_size=_PROBES)

  found = jax.device_get(follow_each(jnp.eye(stops[-1])))
  rows = {name: np.split(matrix, stops[:-1]) for name, matrix in found.items()}
  return {
    source: {name: parts[index] for name, parts in rows.items()}
    for index, source in enumerate(sources)
  }


def _check(reached: dict[str, dict[str, np.ndarray]]) -> None:
  for target in reached[_DATA]:
    sources = [s for s, inputs in reached.items() if inputs[target].any()]
    count = sum(reached[s][target].sum(axis=0) for s in sources)
    if target != _OUTPUT and np.max(count) > 1:
      raise ValueError(
        f'An input of {target!r} comes from several units, of '
        f'{" and ".join(sources)}. Supported are layers that are fed unit by '
        'unit: make a residual sum an experiments.models.join.Join.'
      )
  for source, inputs in reached.items():
    seen = np.any([matrix.any(axis=1) for matrix in inputs.values()], axis=0)
    if source != _DATA and not seen.all():
      raise ValueError(
        f'{np.sum(~seen)} of the {len(seen)} units of {source!r} change no '
        'later layer and not the output, so who reads them is not known.'
      )
