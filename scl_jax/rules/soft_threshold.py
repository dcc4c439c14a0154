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
"""Soft threshold reparameterisation: a learned threshold for each layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import checks
from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import finite_or_zero
from scl_jax.mask_rule import pull_back
from scl_jax.mask_rule import value_at
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class STRState(NamedTuple):
  """State of the rule `soft_threshold`.

  Attributes:
    count: Steps so far, int32.
    mask_params: s, float32, one a layer in as many axes as its weight has;
      `None` at leaves that are not prunable.
    decay: A record of the decay, float32: that of the last step.
    optimizer_state: State of the mask optimizer.
  """

  count: ArrayLike
  mask_params: PyTree
  decay: jax.Array
  optimizer_state: optax.OptState

  def masks(self, weights: PyTree) -> PyTree:
    """Whether |w| is above its layer's threshold, bool."""
    return jax.tree.map(
      lambda s, w: _excess(w, s) > 0,
      self.mask_params,
      tree_lib.keep_where(weights, self.mask_params),
    )


def soft_threshold(
  decay: optax.ScalarOrSchedule,
  *,
  init_value: float = -5.0,
  mask_optimizer: optax.GradientTransformation | None = None,
  prunable: Prunable = None,
) -> MaskRule:
  r"""Soft threshold reparameterisation, STR (arXiv 2002.03231).

  Each layer has a variable s, and params are

  .. math:: \mathrm{sign}(w) \, \mathrm{relu}(|w| - \sigma(s))

  The loss moves w and s. As s starts negative, its decay towards 0 raises the
  threshold; in the paper decay and initial value set how sparse the network
  becomes, and the weights decay alike. A weight below the threshold has no
  gradient: only decay and momentum of its optimizer move it. A gradient of s
  that is not finite counts as 0.

  Args:
    decay: The decay of s, >= 0: a number, a scalar array (perhaps traced) or a
      schedule of the step; decay × s is added to the gradient of s. The rule
      that updates decides, whatever the state was made with.
    init_value: The s to start from. σ(-5) = 0.0067 is the threshold then.
    mask_optimizer: Moves s; by default SGD with learning rate 0.1 and momentum
      0.9. The paper uses the optimizer of the weights.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range.

  Example:
    >>> tx = scl_jax.sparsify(optax.adamw(3e-3), soft_threshold(5e-4))
  """
  checks.check_scalar(
    'decay', decay, lambda x: x >= 0, 'finite and >= 0', or_schedule=True
  )
  checks.check_scalar('init_value', init_value, lambda _: True, 'finite')
  checks.check_transformation('mask_optimizer', mask_optimizer)
  by_layer = (
    optax.sgd(0.1, momentum=0.9) if mask_optimizer is None else mask_optimizer
  )

  def init_fn(weights):
    mask_params = jax.tree.map(
      lambda w: jnp.full((1,) * w.ndim, init_value, jnp.float32),
      prunable_leaves(weights, prunable),
    )
    return STRState(
      count=jnp.zeros((), jnp.int32),
      mask_params=mask_params,
      decay=value_at(decay, 0),
      optimizer_state=by_layer.init(mask_params),
    )

  def update_fn(grads, state, weights):
    price = value_at(decay, state.count)
    _, mask_grads = pull_back(_effective, grads, weights, state.mask_params)
    mask_grads = jax.tree.map(
      lambda g, s: finite_or_zero(g) + price * s, mask_grads, state.mask_params
    )
    steps, optimizer_state = by_layer.update(
      mask_grads, state.optimizer_state, state.mask_params
    )
    return STRState(
      count=optax.safe_increment(state.count),
      mask_params=optax.apply_updates(state.mask_params, steps),
      decay=price,
      optimizer_state=optimizer_state,
    )

  return MaskRule(init_fn, update_fn, effective=_effective)


def _effective(weights: PyTree, mask_params: PyTree) -> PyTree:
  return jax.tree.map(
    lambda w, s: w if s is None else jnp.sign(w) * jax.nn.relu(_excess(w, s)),
    weights,
    mask_params,
  )


def _excess(weight: jax.Array, s: jax.Array) -> jax.Array:
  return jnp.abs(weight) - jax.nn.sigmoid(s).astype(weight.dtype)
