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
"""NNrelief on a Flax Linen model: one pruning of the whole network.

`scl_jax.activity` and `scl_jax.nnrelief` hold the method, on arrays; here are
the order of the layers and what belongs to a unit in a model. As in the
authors' code (adekhovich/NNrelief):

- convolutions and joins come first, scored on one forward pass; then dense
  layers, on the features of the pruned convolutions;
- a layer is scored on what it gets before the layers in front of it are pruned
  in the same pass;
- a unit that is 0 on all examples where it is read is removed: all that comes
  into it, its bias, and scale and bias of its batch normalisation;
- last the backward sweep; so a removed unit leaves nothing.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple, get_args

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from experiments import flow as flow_lib
from experiments.models import join
from experiments.models import layers
import scl_jax
from scl_jax import activity
from scl_jax import checks
from scl_jax import nnrelief
from scl_jax import tree as tree_lib

Masks = dict[str, activity.Incoming]


class Pruned(NamedTuple):
  """What is left of a network.

  Attributes:
    masks: A tree like the params: float32 arrays of {0, 1}, also for biases and
      batch normalisation; `None` at other leaves.
    gates: The collection `'gates'` for shortcuts; `{}` without a `Join`.
  """

  masks: Any
  gates: Any


def trace(
  model: nn.Module, variables: Mapping[str, Any], images: jax.Array
) -> flow_lib.Flow:
  """Who feeds whom in a model that can be pruned.

  Args:
    model: See `prune`.
    variables: See `prune`.
    images: Examples; only their shape is used.

  Returns:
    A `Flow`.

  Raises:
    ValueError: If the model is not supported.
  """
  flow = flow_lib.trace(model, variables, images)

  def look(call):
    if isinstance(call.module, flow_lib.CONVOLUTIONS):
      _conv_options(call)

  jax.eval_shape(
    lambda variables, images: flow_lib.visit(model, variables, images, look),
    variables,
    images[:1],
  )
  _check_coverage(variables['params'], flow)
  return flow


def prune(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: jax.Array,
  *,
  alpha: float,
  conv_alpha: float,
  cut: nnrelief.Cut = 'paper',
  norm: activity.Norm = 'mean_of_norms',
  flow: flow_lib.Flow | None = None,
) -> Pruned:
  """Decides what is kept, from the activity on a batch.

  Supported are models of `nn.Dense`, `nn.Conv` (not in groups), `Conv3x3`,
  `nn.BatchNorm` and `Join`, with whatever acts channel by channel in between,
  see `experiments.flow`. Weights that are 0 stay pruned, so that on the
  effective parameters of a sparse network this prunes on.

  Args:
    model: A Linen module, applied as `model.apply(variables, images)`.
    variables: `'params'`, `'batch_stats'` where there is normalisation, and
      perhaps `'gates'`.
    images: The pruning batch, as the model gets it.
    alpha: The share of activity that dense layers keep.
    conv_alpha: The share that convolutions and joins keep.
    cut: See `scl_jax.nnrelief.keep_share`.
    norm: See `scl_jax.activity.conv_scores`.
    flow: From `trace`, where it is known; it is the same for all weights of a
      model.

  Returns:
    A `Pruned`.

  Raises:
    ValueError: If the model is not supported, an argument is out of range, or
      activity or a weight is not finite.
  """
  checks.check_density('alpha', alpha)
  checks.check_density('conv_alpha', conv_alpha)
  checks.check_choice('cut', cut, get_args(nnrelief.Cut))
  checks.check_choice('norm', norm, get_args(activity.Norm))
  if flow is None:
    flow = trace(model, variables, images)
  masks: Masks = {}
  dead: dict[str, np.ndarray] = {}
  for kinds, share in (
    ((*flow_lib.CONVOLUTIONS, join.Join), conv_alpha),
    ((nn.Dense,), alpha),
  ):
    names = {n for n, m in flow.modules.items() if type(m) in kinds}
    if not names:
      continue
    pruned = _pruned(variables, masks, dead, flow)
    decided, active = _decide(
      model, _apply(variables, pruned), images, names, float(share), cut, norm
    )
    for name in names:
      dead[name] = _dead_units(name, flow, active)
      masks[name] = nnrelief.remove_units(decided[name], ~dead[name])

  # In the order of calls, as the sweep goes from the last to the first.
  masks = {name: masks[name] for name in flow.modules}
  masks, read = nnrelief.backward_sweep(masks, flow.feeds, flow.in_output)
  removed = {name: dead[name] | ~np.asarray(read[name]) for name in masks}
  pruned = _pruned(variables, masks, removed, flow)
  _check_dead(model, _apply(variables, pruned), images, dead, flow)
  return pruned


def _decide(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: jax.Array,
  names: set[str],
  alpha: float,
  cut: nnrelief.Cut,
  norm: activity.Norm,
) -> tuple[Masks, dict[str, jax.Array]]:
  """Masks of some layers, and which inputs of each layer are ever not 0.

  Everything is reduced as the pass goes, so that no layer's maps are kept.
  """
  masks: Masks = {}
  active: dict[str, jax.Array] = {}

  def look(call):
    if isinstance(call.module, nn.BatchNorm):
      return
    is_finite, active[call.name] = _activity(call.inputs)
    if not is_finite:
      raise ValueError(f'The inputs of {call.name!r} are not finite.')
    if call.name not in names:
      return
    if isinstance(call.module, join.Join):
      masks[call.name] = _join_masks(call, variables, alpha)
      return
    options = None
    if isinstance(call.module, flow_lib.CONVOLUTIONS):
      options = {**_conv_options(call), 'norm': norm}
    params = _lookup(variables['params'], call.name)
    applied = call.module.variables['params']['kernel']
    if not jnp.array_equal(applied, params['kernel'], equal_nan=True):
      raise ValueError(
        f'{call.name!r} applies another kernel than the one in params, as '
        'within nn.WeightNorm; NNrelief cannot prune that.'
      )
    try:
      decided = _layer_masks(
        params['kernel'],
        params.get('bias'),
        call.inputs,
        alpha=alpha,
        cut=cut,
        options=None if options is None else tuple(options.items()),
      )
      # Whatever is not finite in a unit makes its masks NaN.
      checks.check_finite('its scores', decided.kernel)
    except ValueError as error:
      raise ValueError(f'{call.name!r}: {error}') from error
    masks[call.name] = decided

  flow_lib.visit(model, variables, images, look)
  return masks, active


@jax.jit
def _activity(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Whether all is finite, and which inputs are ever not 0."""
  axes = tuple(range(inputs.ndim - 1))
  return jnp.isfinite(inputs).all(), (inputs != 0).any(axis=axes)


@functools.partial(jax.jit, static_argnames=('alpha', 'cut', 'options'))
def _layer_masks(
  kernel: jax.Array,
  bias: jax.Array | None,
  inputs: jax.Array,
  *,
  alpha: float,
  cut: nnrelief.Cut,
  options: tuple[tuple[str, Any], ...] | None,
) -> activity.Incoming:
  """Scores and cut of one layer; `options` are those of a convolution."""
  if options is None:
    scores = activity.dense_scores(kernel, bias, inputs)
  else:
    scores = activity.conv_scores(kernel, bias, inputs, **dict(options))
  return nnrelief.keep_share(scores, alpha, cut=cut)


def _join_masks(
  call: flow_lib.Call, variables: Mapping[str, Any], alpha: float
) -> activity.Incoming:
  """A shortcut's channel that was closed before stays closed."""
  branch, shortcut = jnp.split(call.inputs, 2, axis=-1)
  gate = jnp.ones(branch.shape[-1:])
  if call.name in _paths_of(variables.get('gates', {})):
    gate = _lookup(variables['gates'], call.name)['shortcut']
  masks = nnrelief.join_masks(branch, shortcut * gate, alpha)
  sides = jnp.concatenate([jnp.ones_like(gate), gate])
  return masks._replace(kernel=masks.kernel * sides[:, None])


def _conv_options(call: flow_lib.Call) -> dict[str, Any]:
  """Strides, padding and dilation of a convolution, for `conv_scores`."""
  module = call.module
  if isinstance(module, layers.Conv3x3):
    return {'strides': 1, 'padding': 'SAME', 'kernel_dilation': 1}
  assert isinstance(module, nn.Conv)
  window = np.ravel(module.kernel_size)
  for name, neutral in (
    ('feature_group_count', 1),
    ('input_dilation', 1),
    ('mask', None),
    ('conv_general_dilated', None),
    ('conv_general_dilated_cls', None),
  ):
    value = getattr(module, name)
    if value is not None and (neutral is None or np.any(np.array(value) != 1)):
      raise ValueError(
        f'{call.name!r} has {name}={value}, which is not supported here.'
      )
  if call.inputs.ndim != len(window) + 2:
    raise ValueError(
      f'{call.name!r} must be applied to [examples, *spatial, channels], got '
      f'{call.inputs.shape}.'
    )
  options = ('strides', 'padding', 'kernel_dilation')
  return {name: _static(getattr(module, name)) for name in options}


def _static(value: Any) -> Any:
  """Lists as tuples, which `jax.jit` takes as static."""
  is_many = isinstance(value, list | tuple)
  return tuple(map(_static, value)) if is_many else value


def _dead_units(
  name: str, flow: flow_lib.Flow, active: Mapping[str, jax.Array]
) -> np.ndarray:
  """Units that are 0 on every example, wherever they are read."""
  alive = flow.in_output[name].copy()
  for (source, target), matrix in flow.feeds.items():
    if source == name:
      alive |= (matrix & np.asarray(active[target])).any(axis=1)
  return ~alive


def _pruned(
  variables: Mapping[str, Any],
  masks: Masks,
  removed: Mapping[str, np.ndarray],
  flow: flow_lib.Flow,
) -> Pruned:
  """Masks of layers, as far as they are known, as masks of all variables."""
  found: dict[str, Any] = {}
  gates: dict[str, Any] = {}
  for name, (kernel, bias) in masks.items():
    if isinstance(flow.modules[name], join.Join):
      shortcut = jnp.diagonal(kernel[kernel.shape[1] :])
      gates[f'{name}/shortcut'] = shortcut
    else:
      found[f'{name}/kernel'], found[f'{name}/bias'] = kernel, bias
  for (source, norm), matrix in flow.norms.items():
    if source in removed:
      gone = (matrix & removed[source][:, None]).any(axis=0)
      keep = np.asarray(~gone, np.float32)
      for leaf in ('scale', 'bias'):
        found[f'{norm}/{leaf}'] = found.get(f'{norm}/{leaf}', 1.0) * keep

  def of(path, leaf):
    mask = found.get(path)
    return None if mask is None else jnp.broadcast_to(mask, leaf.shape)

  return Pruned(
    tree_lib.map_with_path(of, variables['params']),
    traverse_util.unflatten_dict(gates, sep='/'),
  )


def _apply(variables: Mapping[str, Any], pruned: Pruned) -> dict[str, Any]:
  """The variables of the pruned network."""
  params = scl_jax.apply_masks(variables['params'], pruned.masks)
  gates = pruned.gates or variables.get('gates', {})
  return {**variables, 'params': params, **({'gates': gates} if gates else {})}


def _check_coverage(params: Any, flow: flow_lib.Flow) -> None:
  kernels = {f'{name}/kernel' for name in flow.modules}
  chosen = scl_jax.prunable(params)
  missed = [
    path
    for path, is_chosen in tree_lib.zip_leaves(chosen)
    if is_chosen and path not in kernels
  ]
  if missed:
    raise ValueError(
      'These weights belong to no nn.Dense or nn.Conv that the model calls, so '
      f'NNrelief has no score for them:\n{tree_lib.listing(missed)}'
    )


def _check_dead(
  model: nn.Module,
  variables: Mapping[str, Any],
  images: jax.Array,
  dead: Mapping[str, np.ndarray],
  flow: flow_lib.Flow,
) -> None:
  """Units that were 0 must be 0 without their connections."""
  _, active = _decide(
    model, variables, images, set(), 1.0, 'paper', 'mean_of_norms'
  )
  for name, units in dead.items():
    revived = units & ~_dead_units(name, flow, active)
    if revived.any():
      raise ValueError(
        f'{revived.sum()} units of {name!r} were 0 on all examples, but are '
        'not 0 without their connections: what follows them must map 0 to 0.'
      )


def _lookup(tree: Any, name: str) -> Any:
  for key in name.split('/'):
    tree = tree[key]
  return tree


def _paths_of(gates: Any) -> set[str]:
  return {path.rsplit('/', 1)[0] for path in tree_lib.paths(gates)}
