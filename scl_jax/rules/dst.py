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
"""Dynamic Sparse Training: a learned threshold for each neuron or filter."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import checks
from scl_jax import features
from scl_jax import masks as masks_lib
from scl_jax import ste
from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import finite_or_zero
from scl_jax.mask_rule import pull_back
from scl_jax.mask_rule import value_at
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class DSTState(NamedTuple):
  """State of the rule `dynamic_sparse_training`.

  Attributes:
    count: Steps so far, int32.
    mask_params: The thresholds t, float32, one a feature; `None` at leaves that
      are not prunable.
    penalty: A record of α, float32: that of the last step.
    optimizer_state: State of the mask optimizer.
  """

  count: ArrayLike
  mask_params: PyTree
  penalty: jax.Array
  optimizer_state: optax.OptState

  def masks(self, weights: PyTree) -> PyTree:
    """Whether |w| > t, bool."""
    return jax.tree.map(
      lambda t, w: jnp.abs(w) > t.astype(w.dtype),
      self.mask_params,
      tree_lib.keep_where(weights, self.mask_params),
    )


def dynamic_sparse_training(
  penalty: optax.ScalarOrSchedule,
  *,
  mask_optimizer: optax.GradientTransformation | None = None,
  estimator: ste.Estimator = 'polynomial',
  prunable: Prunable = None,
  feature_axes: features.FeatureAxes = None,
) -> MaskRule:
  r"""Dynamic Sparse Training (Liu et al., arXiv 2005.06870).

  Each feature has a threshold t, and params are

  .. math:: w \cdot S(|w| - t)

  with the unit step S and a long-tailed surrogate of its derivative, through
  which the loss moves weights and thresholds. Its counterpart is the penalty
  α Σ exp(-t) over all features. Thresholds start from 0, and a gradient of one
  that is not finite counts as 0. Not part of this: the released code's return
  to t = 0 in a layer that has lost 99 %.

  Args:
    penalty: α >= 0: a number, a scalar array (perhaps traced) or a schedule of
      the step. Higher is sparser. The rule that updates decides, whatever the
      state was made with.
    mask_optimizer: Moves the thresholds; by default SGD with learning rate
      0.01 and momentum 0.9. The paper uses the optimizer of the weights.
    estimator: The surrogate, see `scl_jax.ste`; `'polynomial'` is the paper's.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.
    feature_axes: Which of their axes are features, see `scl_jax.features`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range; at `init`, if one does not
      fit the weights.

  Example:
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), dynamic_sparse_training(5e-4))
  """
  checks.check_scalar(
    'penalty', penalty, lambda x: x >= 0, 'finite and >= 0', or_schedule=True
  )
  checks.check_transformation('mask_optimizer', mask_optimizer)
  ste.get_estimator(estimator)
  features.resolve_feature_axes(feature_axes)
  by_feature = (
    optax.sgd(0.01, momentum=0.9) if mask_optimizer is None else mask_optimizer
  )

  def effective_fn(weights, mask_params):
    def effective(w, t):
      if t is None:
        return w
      return w * ste.unit_step(jnp.abs(w) - t.astype(w.dtype), estimator)

    return jax.tree.map(effective, weights, mask_params)

  def init_fn(weights):
    features.check_feature_axes(
      feature_axes, prunable_leaves(weights, prunable)
    )
    mask_params = masks_lib.init_mask_params(
      weights,
      prunable=prunable,
      init_value=0.0,
      granularity='feature',
      feature_axes=feature_axes,
    )
    return DSTState(
      count=jnp.zeros((), jnp.int32),
      mask_params=mask_params,
      penalty=value_at(penalty, 0),
      optimizer_state=by_feature.init(mask_params),
    )

  def update_fn(grads, state, weights):
    price = value_at(penalty, state.count)
    _, mask_grads = pull_back(effective_fn, grads, weights, state.mask_params)
    mask_grads = jax.tree.map(
      lambda g, t: finite_or_zero(g) - price * jnp.exp(-t),
      mask_grads,
      state.mask_params,
    )
    steps, optimizer_state = by_feature.update(
      mask_grads, state.optimizer_state, state.mask_params
    )
    return DSTState(
      count=optax.safe_increment(state.count),
      mask_params=optax.apply_updates(state.mask_params, steps),
      penalty=price,
      optimizer_state=optimizer_state,
    )

  return MaskRule(init_fn, update_fn, effective=effective_fn)
