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

from collections.abc import Mapping
import functools
import math
import numbers
from typing import Literal, NamedTuple

import jax
from jax import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import checks
from scl_jax import control
from scl_jax import features
from scl_jax import granularity as granularity_lib
from scl_jax import masks as masks_lib
from scl_jax import motion
from scl_jax import rounding
from scl_jax import ste
from scl_jax import targets
from scl_jax import transforms
from scl_jax import tree as tree_lib
from scl_jax.feature_price import relative_prices
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import end_in_force
from scl_jax.mask_rule import finite_or_zero
from scl_jax.mask_rule import value_at
from scl_jax.normalizers import Normalizer
from scl_jax.normalizers import get_normalizer
from scl_jax.prunable import Prunable

PyTree = tree_lib.PyTree


class SCLState(NamedTuple):
  """State of the rule `scl`.

  Attributes:
    count: Steps so far, int32.
    mask_params: The mask variables, in `mask_dtype`; `None` at leaves that are
      not prunable.
    penalty: A record of λ, float32: that of the last step with trainable masks.
      With densities of layers a tree like `mask_params`.
    normalizer_state: State of the normaliser.
    optimizer_state: State of the mask optimizer and of the box.
    control_state: State of the controller of λ, a `control.ControlState`;
      `None` if λ is given.
    budget: The number of connections to end with, int32, or the MACs, a
      `wide.Wide`; `None` likewise, and with densities of layers a tree.
    freeze_step: The first step with fixed masks, int32, or `None`.
    motion_state: What `scl_jax.diagnose` needs of the past.
  """

  count: jax.Array
  mask_params: PyTree
  penalty: PyTree
  normalizer_state: optax.OptState
  optimizer_state: optax.OptState
  control_state: control.ControlState | None
  budget: PyTree
  freeze_step: jax.Array | None
  motion_state: motion.MotionState

  @property
  def masks(self) -> PyTree:
    """1 where a mask variable is positive, else 0."""
    return jax.tree.map(lambda m: (m > 0).astype(m.dtype), self.mask_params)


def scl(
  penalty: optax.ScalarOrSchedule | None = None,
  *,
  target_density: targets.Densities | None = None,
  target_macs: ArrayLike | None = None,
  costs: PyTree | None = None,
  freeze_step: int | None = None,
  ramp: float = 0.3,
  normalizer: Normalizer = 'feature_norm',
  mask_optimizer: optax.GradientTransformation | float = 0.05,
  box: ArrayLike | None = 0.3,
  estimator: ste.Estimator = 'identity',
  init_value: float = 0.3,
  penalty_order: Literal['after', 'before'] = 'after',
  feature_price: float = 0.0,
  prunable: Prunable = None,
  feature_axes: features.FeatureAxes = None,
  granularity: granularity_lib.Granularity = 'connection',
  mask_dtype: jax.typing.DTypeLike = jnp.float32,
) -> MaskRule:
  r"""Sparse Connectivity Learning: masks that are trained with the weights.

  Each connection has a mask variable m and is live while m > 0. Its gradient
  comes through a straight-through estimator s', and each connection has a
  price λ:

  .. math::
    m \leftarrow \mathrm{box}\bigl(m + \mathrm{mask\_optimizer}(
    \mathrm{normalizer}(g \cdot w \cdot s'(m)) + \lambda s'(m))\bigr)

  A connection goes when keeping it lowers the loss by less than its price, and
  comes back, with the weight that it had, when that changes. An entry of g · w
  that is not finite counts as 0, so that a bad batch leaves masks as they are
  but for their price. A finite one that is a million times too large stays in
  the running norms for long, and the price then closes what it should not: clip
  gradients before `sparsify`, as within it those of masks are not clipped.

  From the paper's abstract: the product of weight and unit step, the estimator,
  the normalisation by feature, the penalty. Our choices: the running norm, the
  penalty after it, plain SGD for mask variables, the box, the initial value,
  the controller.

  Args:
    penalty: λ >= 0, the price of one connection: a number, a scalar array
      (perhaps traced) or a schedule of the step. The rule that updates decides,
      whatever the state was made with. With the default normaliser, 0.005 left
      8 % of LeNet-300-100 after 6 epochs of MNIST (README).
    target_density: Instead of `penalty`, the density to reach, in (0, 1]. λ is
      then driven by `scl_jax.control`, and at `freeze_step` one cut over all
      leaves makes the number of live connections exact. It is read at `init`
      and then lies in the state. A mapping from regular
      expressions for whole paths to densities gives each leaf its own λ and its
      own cut; the first match wins, and each prunable leaf needs one.
    target_macs: Instead of `penalty`, the share of the dense network's MACs to
      reach, in (0, 1]. Layers that are not prunable count as spent. A
      connection's price is proportional to its cost.
    costs: For `target_macs`, the MACs of a connection of each leaf, as
      `scl_jax.costs` gives them.
    freeze_step: From this step on masks are fixed and the weights fine-tuned;
      `None` never. Three quarters of the run is a good choice.
    ramp: The share of the steps before `freeze_step` over which the controller
      lowers its goal from 1 to the target.
    normalizer: A transformation of the mask gradients; `'feature_norm'` is
      `normalize_by_feature_norm(decay=0.92, update_every=8)` on
      `feature_axes`, `None` leaves them as they are. It sees one gradient a
      connection.
    mask_optimizer: Moves mask variables. A number is the learning rate of SGD,
      which falls linearly to 0 over the last 30 % before `freeze_step`.
    box: Bound of |m|; `None` for no bound.
    estimator: A name in `ste.ESTIMATORS`, or a function m -> s'(m).
    init_value: The value that all mask variables start from.
    penalty_order: `'after'` adds the penalty to the normalised gradient,
      `'before'` normalises the sum.
    feature_price: γ in [0, 1]. 0: the penalty counts connections; 1: live
      features, so that fewer stay, for `compact` (`scl_jax.feature_price`).
    prunable: Which leaves carry connections, see `scl_jax.prunable`.
    feature_axes: Which of their axes are features, see `scl_jax.features`.
    granularity: What one mask variable stands for: `'connection'`,
      `'feature'`, a block shape such as (4, 4), or these by patterns of paths.
      It gets the sum of its connections' gradients and prices, or their mean
      where a normaliser has set their scale.
      BatchNorm undoes the length of a feature: in front of it a whole one has
      the gradient 0, and nothing holds it against the price.
    mask_dtype: What mask variables are stored in: float32, or bfloat16, which
      takes 2 bytes less and is rounded to at random
      (`scl_jax.rounding`); they are computed in float32.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range, or not exactly one of
      `penalty`, `target_density` and `target_macs` is given; at `init`, if one
      does not fit the weights, or the target cannot be reached with them.

  Example:
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), scl(penalty=5e-3))
    >>> tx = scl_jax.sparsify(
    ...     optax.adam(3e-3), scl(target_density=0.02, freeze_step=4000)
    ... )
  """
  if sum(x is not None for x in (penalty, target_density, target_macs)) != 1:
    raise ValueError(
      'Give exactly one of penalty, target_density and target_macs; got '
      f'{penalty=}, {target_density=} and {target_macs=}.'
    )
  _check_arguments(
    penalty, freeze_step, ramp, init_value, box, penalty_order, feature_price
  )
  granularity_lib.check_granularity(granularity)
  features.resolve_feature_axes(feature_axes)
  if not isinstance(mask_optimizer, optax.GradientTransformation):
    mask_optimizer = _falling_sgd(mask_optimizer, freeze_step)
  store = rounding.to_storage(mask_dtype)
  target = targets.choose(
    target_density, target_macs, costs, freeze_step=freeze_step, ramp=ramp
  )
  given_penalty = functools.partial(
    value_at, 0.0 if penalty is None else penalty
  )
  derivative = ste.get_estimator(estimator)
  # Gradients are normalised and charged by connection; the sums move mask
  # variables, which may stand for several connections.
  normalize = optax.with_extra_args_support(
    get_normalizer(normalizer, feature_axes)
  )
  by_variable = optax.chain(
    mask_optimizer,
    optax.identity() if box is None else transforms.keep_params_in_box(box),
  )

  def init_fn(weights):
    mask_params = masks_lib.init_mask_params(
      weights,
      prunable=prunable,
      init_value=init_value,
      granularity=granularity,
      feature_axes=feature_axes,
    )
    connections = optax.tree.cast(
      tree_lib.keep_where(weights, mask_params), jnp.float32
    )
    features.check_feature_axes(feature_axes, connections)
    price, control_state, budget = given_penalty(0), None, None
    if target is not None:
      control_state, budget = target.init(weights, mask_params)
      if isinstance(target_density, Mapping):
        price = jax.tree.map(lambda _: jnp.copy(price), mask_params)
    return SCLState(
      count=jnp.zeros((), jnp.int32),
      mask_params=jax.tree.map(lambda m: m.astype(mask_dtype), mask_params),
      penalty=price,
      normalizer_state=normalize.init(connections),
      optimizer_state=by_variable.init(mask_params),
      control_state=control_state,
      budget=budget,
      freeze_step=None
      if freeze_step is None
      else jnp.asarray(freeze_step, jnp.int32),
      motion_state=motion.init_motion(init_value),
    )

  def update_fn(grads, state, weights):
    grads, weights = (
      tree_lib.keep_where(tree, state.mask_params) for tree in (grads, weights)
    )
    sizes = targets.sizes_of(weights, state.mask_params)
    if freeze_step is not None:
      last = end_in_force(freeze_step - 1, state.freeze_step - 1, state.count)
      state = state._replace(freeze_step=last + 1)
    new = move(grads, state, weights, sizes)
    if freeze_step is not None:
      # Selected, not branched: a branch would copy what it passes on.
      frozen = state.count >= state.freeze_step
      old = state._replace(count=new.count)
      new = jax.tree.map(lambda x, y: jnp.where(frozen, x, y), old, new)
    seen = motion.observe(
      state.motion_state,
      state.count,
      new.mask_params,
      sizes,
      end=None if freeze_step is None else state.freeze_step - 1,
    )
    return new._replace(motion_state=seen)

  def move(grads, state, weights, sizes):
    mask_params = jax.tree.map(
      lambda m: m.astype(jnp.float32), state.mask_params
    )
    expanded = jax.tree.map(
      lambda m, w: masks_lib.expand(m, w.shape), mask_params, weights
    )

    def task_gradients():
      return jax.tree.map(
        lambda m, g, w: finite_or_zero((g * w).astype(m.dtype) * derivative(m)),
        expanded,
        grads,
        weights,
      )

    def normalized(mask_grads, recompute=None):
      return normalize.update(
        mask_grads, state.normalizer_state, expanded, recompute=recompute
      )

    # What only some steps need is computed by them, from `task_gradients`: as
    # an operand of a branch it would have to be stored in all steps.
    if penalty_order == 'after':
      mask_grads, normalizer_state = normalized(
        task_gradients(), recompute=task_gradients
      )
      price, control_state = next_penalty(
        state, lambda: normalized(task_gradients())[0], sizes
      )
      mask_grads = charged(mask_grads, price, expanded)
    else:
      price, control_state = next_penalty(state, task_gradients, sizes)
      mask_grads, normalizer_state = normalized(
        charged(task_gradients(), price, expanded)
      )

    mask_grads = jax.tree.map(
      lambda m, g, n: (
        masks_lib.contract(g, m.shape)
        / (1 if normalizer is None else n.astype(m.dtype))
      ),
      mask_params,
      mask_grads,
      sizes,
    )
    steps, optimizer_state = by_variable.update(
      mask_grads, state.optimizer_state, mask_params
    )
    moved = optax.apply_updates(mask_params, steps)
    if target is not None and freeze_step is not None:
      # The last step before the freeze cuts instead.
      is_last = state.count == state.freeze_step - 1
      moved = jax.tree.map(
        lambda cut, m: jnp.where(is_last, cut, m),
        target.cut(mask_params, sizes, state.budget, is_last),
        moved,
      )
    return state._replace(
      count=jnp.asarray(optax.safe_increment(state.count)),
      mask_params=store(moved, state.count),
      penalty=price,
      normalizer_state=normalizer_state,
      optimizer_state=optimizer_state,
      control_state=control_state,
    )

  def charged(mask_grads, price, expanded):
    if target is None:
      prices = jax.tree.map(lambda _: price, mask_grads)
    else:
      prices = target.charges(price, mask_grads)
    if isinstance(feature_price, core.Tracer) or feature_price:
      relative = relative_prices(expanded, feature_price, feature_axes)
      prices = jax.tree.map(jnp.multiply, prices, relative)
    return jax.tree.map(charge, expanded, mask_grads, prices)

  def charge(m, g, price):
    # As `add_connection_penalty`, which takes no negative price: to hold a
    # density one may be needed.
    return (g + price * derivative(m)).astype(g.dtype)

  def next_penalty(state, gradients, sizes):
    if target is not None:
      return target.price(
        state.control_state, state.count, gradients, state.masks, sizes
      )
    return given_penalty(state.count), None

  return MaskRule(init_fn, update_fn)


def _falling_sgd(
  learning_rate: float, freeze_step: int | None
) -> optax.GradientTransformation:
  """SGD whose rate falls to 0 over the last 30 % before the freeze."""
  checks.check_scalar(
    'mask_optimizer',
    learning_rate,
    lambda x: x > 0,
    'a number > 0 or an optax.GradientTransformation',
  )
  if freeze_step is None:
    return optax.sgd(learning_rate)
  start = (7 * freeze_step) // 10

  # Not optax.linear_schedule, which refuses steps that are traced.
  def rate(count):
    steps = freeze_step - start
    return learning_rate * (1 - jnp.clip(count - start, 0, steps) / steps)

  return optax.sgd(rate)


def _check_arguments(
  penalty, freeze_step, ramp, init_value, box, penalty_order, feature_price
) -> None:
  checks.check_scalar(
    'penalty',
    penalty,
    lambda x: x >= 0,
    'finite and >= 0',
    or_schedule=True,
    or_none=True,
  )
  checks.check_whole('freeze_step', freeze_step, 1, or_none=True)
  checks.check_scalar('ramp', ramp, lambda x: 0 < x <= 1, 'in (0, 1]')
  checks.check_scalar('box', box, lambda x: x > 0, '> 0', or_none=True)
  bound = box if isinstance(box, numbers.Real) else math.inf
  checks.check_scalar(
    'init_value',
    init_value,
    lambda x: abs(x) <= bound,
    'finite' if box is None else f'finite and within the box, {box}',
  )
  checks.check_choice('penalty_order', penalty_order, ('after', 'before'))
  checks.check_scalar(
    'feature_price', feature_price, lambda x: 0 <= x <= 1, 'in [0, 1]'
  )
