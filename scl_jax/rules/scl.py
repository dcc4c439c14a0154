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
"""Sparse Connectivity Learning (arXiv 2201.05020)."""

from collections.abc import Callable
import math
import numbers
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import control
from scl_jax import metrics
from scl_jax import thresholding
from scl_jax import features
from scl_jax import masks as masks_lib
from scl_jax import ste
from scl_jax import transforms
from scl_jax import tree as tree_lib
from scl_jax.prunable import Prunable
from scl_jax.sparsify import MaskRule

PyTree = tree_lib.PyTree


class SCLState(NamedTuple):
  """State of the rule `scl`.

  Attributes:
    count: Steps so far, int32.
    mask_params: The mask variables, float32; `None` at leaves that are not
      prunable.
    gradient_state: State of the normaliser and of the penalty, which it holds
      as the array `hyperparams['penalty']`.
    optimizer_state: State of the mask optimizer and of the box.
  """

  count: jax.Array
  mask_params: PyTree
  gradient_state: optax.OptState
  optimizer_state: optax.OptState
  control: control.ControlState | None

  @property
  def masks(self) -> PyTree:
    """1 where a mask variable is positive, else 0."""
    return jax.tree.map(lambda m: (m > 0).astype(m.dtype), self.mask_params)


def scl(
    penalty: optax.ScalarOrSchedule | None = None,
    *,
    target_density: ArrayLike | None = None,
    ramp: float = 0.8, margin: float=0.98, gains=None,
    mask_learning_rate: float = 0.05,
    normalizer: optax.GradientTransformation
    | Literal['feature_norm']
    | None = 'feature_norm',
    mask_optimizer: optax.GradientTransformation | None = None,
    box: ArrayLike | None = 0.3,
    estimator: ste.Estimator = 'identity',
    init_value: float = 0.3,
    penalty_order: Literal['after', 'before'] = 'after',
    prunable: Prunable = None,
    feature_axes: features.FeatureAxes = None,
    granularity: masks_lib.Granularity = 'connection',
    freeze_step: int | None = None,
) -> MaskRule:
  r"""Sparse Connectivity Learning: masks that are trained with the weights.

  Each connection has a mask variable m and is live while m > 0. Its gradient
  comes through a straight-through estimator s', and each connection has a
  price λ:

  .. math::
    m \leftarrow \mathrm{box}\bigl(m + \mathrm{mask\_optimizer}(
    \mathrm{normalizer}(g \cdot w \cdot s'(m)) + \lambda s'(m))\bigr)

  A connection goes when keeping it lowers the loss by less than its price, and
  comes back, with the weight that it had, when that changes.

  From the paper's abstract: the product of weight and unit step, the estimator,
  the normalisation by feature, the penalty. Our choices: the running norm, the
  penalty after it, plain SGD for mask variables, the box, the initial value.

  Args:
    penalty: λ >= 0, the price of one connection: a number, a scalar array
      (perhaps traced) or a schedule of the step. With the default normaliser,
      0.002 to 0.01 is where densities of 10 % to 0.5 % lie.
    normalizer: A transformation of the mask gradients; `'feature_norm'` is
      `normalize_by_feature_norm(decay=0.99)` on `feature_axes`, `None` leaves
      them as they are. It sees one gradient a connection.
    mask_optimizer: Moves mask variables; by default SGD with learning rate
      0.05, which falls linearly to 0 over the last 30 % before `freeze_step`.
    box: Bound of |m|; `None` for no bound.
    estimator: A name in `ste.ESTIMATORS`, or a function m -> s'(m).
    init_value: The value that all mask variables start from.
    penalty_order: `'after'` adds the penalty to the normalised gradient,
      `'before'` normalises the sum.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.
    feature_axes: Which of their axes are features, see `scl_jax.features`.
    granularity: What one mask variable stands for: `'connection'`,
      `'feature'`, or a block shape such as (4, 4). It gets the sum of its
      connections' gradients and prices, or their mean where a normaliser has
      set their scale.
    freeze_step: From this step on masks are fixed and the weights fine-tuned;
      `None` never.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range; at `init`, if it does not
      fit the weights.

  Example:
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), scl(penalty=5e-3))
  """
  if penalty is not None: _check_penalty(penalty)
  derivative = ste.get_estimator(estimator)
  _check_start(init_value, box)
  if penalty_order not in ('after', 'before'):
    raise ValueError(
        f"penalty_order must be 'after' or 'before', got {penalty_order!r}."
    )
  if isinstance(freeze_step, numbers.Real) and (
      freeze_step < 1 or freeze_step != int(freeze_step)
  ):
    raise ValueError(
        f'freeze_step must be a whole number of steps >= 1, got {freeze_step}.'
    )

  # Two chains: what happens to the gradient of each connection, and what
  # happens to the mask variables, which may stand for several.
  normalize = _normalizer(normalizer, feature_axes)
  charge = optax.inject_hyperparams(
      transforms.add_connection_penalty, static_args='derivative'
  )(0.0 if penalty is None else penalty, derivative=derivative)
  by_connection = optax.chain(
      *([normalize, charge] if penalty_order == 'after' else [charge, normalize])
  )
  by_variable = optax.chain(
      optax.sgd(_default_schedule(freeze_step, mask_learning_rate))
      if mask_optimizer is None
      else mask_optimizer,
      optax.identity() if box is None else transforms.keep_params_in_box(box),
  )
  reduction = jnp.sum if normalizer is None else jnp.mean

  def init_fn(weights):
    mask_params = masks_lib.init_mask_params(
        weights,
        prunable=prunable,
        init_value=init_value,
        granularity=granularity,
        feature_axes=feature_axes,
    )
    connections = _only_prunable(weights, mask_params)
    features.check_feature_axes(feature_axes, connections)
    return SCLState(
        count=jnp.zeros((), jnp.int32),
        mask_params=mask_params,
        gradient_state=by_connection.init(
            jax.tree.map(lambda w: w.astype(jnp.float32), connections)
        ),
        optimizer_state=by_variable.init(mask_params),
        control=None if target_density is None else control.init_control(),
    )

  goal_target = target_density if target_density is None else margin*target_density
  def cut(m):
    size=sum(x.size for x in jax.tree.leaves(m))
    keep=thresholding.keep_highest(m, round(target_density*size))
    return jax.tree.map(lambda m,k: jnp.where(k>0, jnp.maximum(m,1e-6), jnp.minimum(m,-1e-6)), m, keep)

  def update_fn(grads, state, weights):
    mask_params = state.mask_params

    def move():
      gradient_state, control_state = state.gradient_state, state.control
      if target_density is not None:
        density = metrics.density(state.masks)
        goal = control.goal_density(state.count, goal_target, ramp*freeze_step)
        price, control_state = control.update_control(control_state, density, goal, **(gains or {}))
        gradient_state = optax.tree.set(gradient_state, penalty=price)
      expanded = jax.tree.map(
          lambda w, m: None if m is None else masks_lib.expand(m, w.shape),
          weights,
          mask_params,
      )
      mask_grads = jax.tree.map(
          lambda m, g, w: (g * w).astype(m.dtype) * derivative(m),
          expanded,
          _only_prunable(grads, mask_params),
          _only_prunable(weights, mask_params),
      )
      mask_grads, gradient_state = by_connection.update(
          mask_grads, gradient_state, expanded
      )
      mask_grads = jax.tree.map(
          lambda m, g: masks_lib.contract(g, m.shape, reduction),
          mask_params,
          mask_grads,
      )
      steps, optimizer_state = by_variable.update(
          mask_grads, state.optimizer_state, mask_params
      )
      moved = optax.apply_updates(mask_params, steps)
      if target_density is not None:
        moved = jax.lax.cond(state.count == freeze_step - 1, lambda: cut(moved), lambda: moved)
      return SCLState(
          optax.safe_increment(state.count),
          moved,
          gradient_state,
          optimizer_state,
          control_state,
      )

    if freeze_step is None:
      return move()
    return jax.lax.cond(
        state.count < freeze_step,
        move,
        lambda: state._replace(count=optax.safe_increment(state.count)),
    )

  return MaskRule(init_fn, update_fn)


def _default_schedule(freeze_step: int | None, lr) -> optax.ScalarOrSchedule:
  if freeze_step is None:
    return lr
  begin = jnp.floor(0.7 * jnp.asarray(freeze_step, jnp.float32))
  return lambda count: lr * jnp.clip(
      (freeze_step - count) / (freeze_step - begin), 0.0, 1.0
  )


def _normalizer(
    normalizer: optax.GradientTransformation | str | None,
    feature_axes: features.FeatureAxes,
) -> optax.GradientTransformation:
  if normalizer is None:
    return optax.identity()
  if normalizer == 'feature_norm':
    resolve = features.resolve_feature_axes(feature_axes)
    return transforms.normalize_by_feature_norm(
        decay=0.99,
        feature_axes=lambda key_path, leaf: resolve(
            tree_lib.path_string(key_path), leaf
        ),
    )
  if hasattr(normalizer, 'init') and hasattr(normalizer, 'update'):
    return normalizer
  raise ValueError(
      "normalizer must be 'feature_norm', None or an optax transformation, got "
      f'{normalizer!r}.'
  )


def _only_prunable(tree: PyTree, mask_params: PyTree) -> PyTree:
  return jax.tree.map(
      lambda leaf, m: None if m is None else leaf, tree, mask_params
  )


def _check_penalty(penalty: Any) -> None:
  if callable(penalty) or isinstance(penalty, jax.core.Tracer):
    return
  value = jnp.asarray(penalty)
  if value.ndim:
    raise ValueError(
        f'penalty must be one number, got shape {value.shape}; train several '
        'at once with jax.vmap over a function of the penalty.'
    )
  if not (value >= 0 and jnp.isfinite(value)):
    raise ValueError(f'penalty must be finite and >= 0, got {penalty}.')


def _check_start(init_value: float, box: ArrayLike | None) -> None:
  if not isinstance(init_value, numbers.Real) or not math.isfinite(init_value):
    raise ValueError(f'init_value must be a finite number, got {init_value!r}.')
  if isinstance(box, numbers.Real) and not (
      box > 0 and abs(init_value) <= box
  ):
    raise ValueError(
        f'box must be > 0 and hold init_value; got box={box} and '
        f'init_value={init_value}.'
    )
