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
"""Networks as programs that run without this package.

Weights are part of the program, and so are the zeros of pruned connections: a
program is dense, as fast as the dense network and as large. Remove what is dead
before, or keep the network as a sparse file (`scl_jax.save`).

Either format takes batches of any size: the first axis of each input.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import io
import logging
import math
import os
from typing import Any
import warnings

import jax
from jax import core
from jax import export
from jax import lax
import jax.numpy as jnp
import numpy as np

from scl_jax import atomic
from scl_jax import differences
from scl_jax import tree as tree_lib
from scl_jax.graph import nodes

PyTree = tree_lib.PyTree

_PLATFORMS = ('cpu', 'cuda', 'tpu')
# Of the largest output: float32 in another order of summation stays below, a
# wrong translation does not.
_TOLERANCE = 1e-4


def save_stablehlo(
  path: str | os.PathLike[str],
  fn: Callable[..., Any],
  params: PyTree,
  *example_inputs: Any,
) -> None:
  """Writes a network as StableHLO, for programs that have JAX alone.

  They run it on CPU, GPU or TPU by

      program = jax.export.deserialize(bytearray(open(path, 'rb').read()))
      outputs = program.call(*inputs)

  and for how long such files stay readable, `jax.export` says: six months at
  least.

  Args:
    path: The file; one that is there is replaced.
    fn: The network, `fn(params, *inputs)`: pure, and indifferent to the size of
      the batch.
    params: Its parameters.
    *example_inputs: Arrays or `jax.ShapeDtypeStruct`, or pytrees of such; what
      counts is their structure, dtypes and shapes [batch, ...], with the same
      batch. `program.call` takes the same structure.

  Raises:
    ImportError: Without flatbuffers, which comes with `scl_jax[export]`.
    ValueError: If an input has no axis or the batches differ, or a container
      is not registered with `jax.export` (those of Python are).
  """
  specs = _of_any_batch(example_inputs)
  exported = export.export(
    jax.jit(lambda *inputs: fn(params, *inputs)), platforms=_PLATFORMS
  )(*specs)
  try:
    program = exported.serialize()
  except ImportError as error:
    raise ImportError(
      "save_stablehlo needs flatbuffers: pip install 'scl_jax[export]'."
    ) from error
  atomic.write(path, bytes(program))


def save_onnx(
  path: str | os.PathLike[str],
  fn: Callable[..., Any],
  params: PyTree,
  *example_inputs: Any,
) -> None:
  """Writes a network as ONNX, for ONNX Runtime and others, and checks it.

  Its inputs are arrays with names: `'in_0'`, `'in_1'` for arrays, and
  `'in_0/image'` for the entry `'image'` of a dict, likewise of any pytree.

  The translation is by jax2onnx. Before anything is written ONNX Runtime runs
  it on the example inputs, whole and with a batch of 1, and its outputs must be
  those of `fn` up to 1e-4 of the largest that is finite. (jax2onnx 0.13
  translates Flax's pooling only with its window given by keyword,
  `window_shape=`.)

  Args:
    path: The file; one that is there is replaced.
    fn: The network, as in `save_stablehlo`.
    params: Its parameters.
    *example_inputs: As in `save_stablehlo`. In the place of a
      `jax.ShapeDtypeStruct` it is checked on a random array; on zeros, if that
      is of no floating dtype.

  Raises:
    ImportError: Without jax2onnx and ONNX Runtime, which come with
      `scl_jax[onnx]`.
    ValueError: If an input has no axis or the batches differ.
    RuntimeError: If jax2onnx or ONNX Runtime fail, or the outputs are others.
  """
  specs = _of_any_batch(example_inputs)
  try:
    with _quiet():
      import jax2onnx
      import onnxruntime
  except ImportError as error:
    raise ImportError(
      "save_onnx needs jax2onnx and ONNX Runtime: pip install 'scl_jax[onnx]'."
    ) from error

  leaves, treedef = jax.tree.flatten(specs)
  names = [f'in_{path}' for path, _ in tree_lib.zip_leaves(specs)]

  def network(*inputs):
    return fn(params, *jax.tree.unflatten(treedef, inputs))

  examples = _arrays(example_inputs, specs)
  if not len(examples[0]):
    raise ValueError(
      'example_inputs must hold at least one example, as what is written is '
      'compared with the network on it.'
    )
  batches = [examples, [x[:1] for x in examples]]
  expected = [network(*inputs) for inputs in batches]
  # jax2onnx patches JAX while it traces, and knows some functions only so. A
  # network that reads its own program, as a compact one does, has to be traced
  # before.
  traced = nodes.trace(fn, params, *specs)
  options = onnxruntime.SessionOptions()
  options.log_severity_level = 3  # errors; it warns of every transposition
  errors = []
  for program in (network, lambda *inputs: _replay(traced, params, inputs)):
    try:
      with _quiet(), _unpatched():
        model = jax2onnx.to_onnx(program, leaves, input_names=names)
        data = model.SerializeToString()
      session = onnxruntime.InferenceSession(
        data, options, providers=['CPUExecutionProvider']
      )
      for inputs, outputs in zip(batches, expected, strict=True):
        feed = dict(zip(names, map(np.asarray, inputs), strict=True))
        _check(session, feed, outputs)
    except Exception as error:  # both raise a great variety
      errors.append(error)
    else:
      atomic.write(path, data)
      return
  raise RuntimeError(
    'jax2onnx does not translate this network for ONNX Runtime, so nothing '
    'was written; save_stablehlo may serve. It failed twice. Of the function: '
    f'{errors[0]} Of what JAX makes of it: {errors[1]}{_hint(traced)}'
  ) from errors[0]


def _hint(graph: nodes.Graph) -> str:
  """What to do, where a dtype is likely to be why."""
  for dtype in {aval.dtype for aval in graph.avals}:
    if dtype in (jnp.bfloat16, jnp.float16):
      return (
        f' It computes in {dtype}, which may be why: export the same network '
        'in float32.'
      )
  return ''


def _of_any_batch(inputs: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
  """What inputs look like, of the dtypes that JAX gives them."""
  specs = jax.eval_shape(lambda x: x, inputs)
  shapes = [x.shape for x in jax.tree.leaves(specs)]
  batches = {shape[:1] for shape in shapes}
  if len(batches) != 1 or () in batches:
    raise ValueError(
      'example_inputs must be arrays of shapes [batch, ...], or pytrees of '
      f'such, with the same batch; got {shapes}.'
    )
  (batch,) = export.symbolic_shape('batch')
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype), specs
  )


def _arrays(inputs: PyTree, specs: PyTree) -> list[jax.Array]:
  """The inputs' leaves, of the dtypes that are traced; at random if need be."""
  rng = np.random.default_rng(0)

  def array(x: Any, spec: jax.ShapeDtypeStruct) -> jax.Array:
    if not isinstance(x, jax.ShapeDtypeStruct):
      return jnp.asarray(x, spec.dtype)
    is_float = jnp.issubdtype(spec.dtype, jnp.floating)
    value = rng.normal(size=x.shape) if is_float else np.zeros(x.shape)
    return jnp.asarray(value, spec.dtype)

  return jax.tree.leaves(jax.tree.map(array, inputs, specs))


def _replay(
  graph: nodes.Graph, params: PyTree, inputs: tuple[Any, ...]
) -> list[Any]:
  """Runs what was traced, in words that ONNX Runtime knows."""
  found = dict(graph.constants)
  found.update(zip(graph.leaves, jax.tree.leaves(params), strict=True))
  found.update(zip(graph.inputs, inputs, strict=True))
  for node in graph.nodes:
    values = [found[v] for v in node.inputs]
    if node.name == 'reduce_window_max':
      results = [_max_pool(values[0], node.params)]
    elif node.name == 'pad' and _is_plain(values[1], node.params):
      # jax2onnx 0.13 gives lax.pad a batch of one size only.
      widths = [width[:2] for width in node.params['padding_config']]
      number = np.asarray(values[1]).item()
      results = [jnp.pad(values[0], widths, constant_values=number)]
    elif node.name == 'conv_general_dilated':
      # jax2onnx 0.13 overlooks that the operand is dilated.
      spec, steps = node.params['dimension_numbers'].lhs_spec, {}
      for axis, step in zip(spec[2:], node.params['lhs_dilation'], strict=True):
        steps[axis] = step
      whole = {**node.params, 'lhs_dilation': (1,) * len(steps)}
      results = node.bind(_dilated(values[0], steps), values[1], **whole)
    else:
      results = node.bind(*values, **node.params)
    found.update(zip(node.outputs, results, strict=True))
  return [found[v] for v in graph.outputs]


def _dilated(x: jax.Array, steps: Mapping[int, int]) -> jax.Array:
  """With zeros between the entries, so that they are `steps` apart."""
  for axis, step in steps.items():
    if step > 1:
      before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
      x = x.reshape(*before, 1, *after)
      widths = [(0, (step - 1) * (i == axis + 1)) for i in range(x.ndim)]
      x = jnp.pad(x, widths)
      x = x.reshape(*before[:-1], before[-1] * step, *after)
      x = lax.slice_in_dim(x, 0, x.shape[axis] - step + 1, axis=axis)
  return x


def _is_plain(value: Any, params: Mapping[str, Any]) -> bool:
  """Whether it pads by a number, outside, and takes nothing away."""
  config = params['padding_config']
  return not isinstance(value, core.Tracer) and all(
    low >= 0 and high >= 0 and not inner for low, high, inner in config
  )


def _max_pool(x: jax.Array, params: Mapping[str, Any]) -> jax.Array:
  """The same with all axes without a window in one: it takes 3 at most."""
  is_alone = [
    (window, stride, *pad) == (1, 1, 0, 0)
    for window, stride, pad in zip(
      params['window_dimensions'],
      params['window_strides'],
      params['padding'],
      strict=True,
    )
  ]
  moved = [axis for axis, alone in enumerate(is_alone) if not alone]
  rest = [axis for axis, alone in enumerate(is_alone) if alone]
  order = (*rest, *moved)
  shape = [x.shape[axis] for axis in rest]
  pick = lambda name, one: (one, *(params[name][axis] for axis in moved))
  x = x.transpose(order)
  x = x.reshape(math.prod(shape), *x.shape[len(rest) :])
  x = lax.reduce_window(
    x,
    -jnp.inf,
    lax.max,
    window_dimensions=pick('window_dimensions', 1),
    window_strides=pick('window_strides', 1),
    padding=pick('padding', (0, 0)),
    base_dilation=pick('base_dilation', 1),
    window_dilation=pick('window_dilation', 1),
  )
  x = x.reshape(*shape, *x.shape[1:])
  return x.transpose(np.argsort(order))


def _check(session: Any, inputs: dict[str, np.ndarray], expected: Any) -> None:
  outputs = session.run(None, inputs)
  for output, leaf in zip(outputs, jax.tree.leaves(expected), strict=True):
    gap, size = differences.largest(output, np.asarray(leaf))
    if not gap <= _TOLERANCE * size:
      raise ValueError('In ONNX Runtime its outputs are others.')


@contextlib.contextmanager
def _unpatched() -> Iterator[None]:
  """Puts jax.numpy back: jax2onnx 0.13 leaves a cumsum of its own in it."""
  functions = dict(jnp.__dict__)
  try:
    yield
  finally:
    jnp.__dict__.update(functions)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without jax2onnx's talk of what other networks would need."""
  loggers = [logging.getLogger(name) for name in ('jax2onnx', 'onnx_ir')]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    with (
      contextlib.redirect_stdout(io.StringIO()),
      warnings.catch_warnings(action='ignore'),
    ):
      yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
