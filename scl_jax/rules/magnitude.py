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
"""Gradual pruning by magnitude, saliency or LAMP scores."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import checks
from scl_jax import distributions
from scl_jax import scores as scores_lib
from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax import wide
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import all_finite
from scl_jax.mask_rule import end_in_force
from scl_jax.mask_rule import stored_like
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class GradualMagnitudeState(NamedTuple):
  """State of the rule `gradual_magnitude`.

  Attributes:
    count: Steps so far, int32; a step whose saliency is not finite waits.
    masks: bool; `None` at leaves that are not prunable.
    budget: The connections to end with, int32: one number, or one a layer.
    end_step: The step at which they are reached, int32.
  """

  count: ArrayLike
  masks: PyTree
  budget: PyTree
  end_step: jax.Array


def gradual_magnitude(
  target_density: ArrayLike,
  *,
  end_step: int,
  begin_step: int = 0,
  update_every: int = 100,
  allocation: distributions.Allocation = 'global',
  score: scores_lib.Score = 'magnitude',
  prunable: Prunable = None,
) -> MaskRule:
  r"""Gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878).

  From `begin_step` on the connections with the lowest scores go, every
  `update_every` steps and at `end_step`, until the target d is reached there:

  .. math::
    d_t = d + (1 - d) \left(1 - \frac{t - t_0}{t_1 - t_0}\right)^3

  A pruned weight is kept but not updated, as in the paper: it comes back if its
  score is then among the highest again. `begin_step = end_step` is one-shot
  pruning at that step. Step t counts from 0 and looks at the weights after t
  updates, so that the target is reached with update `end_step` + 1.

  Args:
    target_density: The density at the end, in (0, 1]; it may be traced where
      the allocation is `'global'`.
    end_step: t_1, the step at which the target is reached.
    begin_step: t_0, the first step at which connections go.
    update_every: How many steps lie between.
    allocation: `'global'` compares scores over all layers; `'uniform'` and
      `'erdos_renyi'` give each layer its number of connections, see
      `scl_jax.layer_budgets`, and compare within.
    score: `'magnitude'`, |w|; `'saliency'`, |g w| with the gradient of the
      batch at hand (one that is not finite throughout decides nothing, and the
      schedule waits for the next); `'lamp'`, magnitudes that can be compared
      across layers (arXiv 2010.07611), for the global allocation.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range, or arguments do not fit.

  Example:
    >>> rule = gradual_magnitude(0.05, begin_step=500, end_step=3000)
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), rule)
  """
  checks.check_density('target_density', target_density)
  checks.check_whole('begin_step', begin_step, 0)
  checks.check_whole('end_step', end_step, begin_step)
  checks.check_whole('update_every', update_every, 1)
  checks.check_choice('allocation', allocation, distributions.ALLOCATIONS)
  checks.check_choice('score', score, scores_lib.SCORES)
  if score == 'lamp' and allocation != 'global':
    raise ValueError(
      "score='lamp' decides how many connections each layer keeps, so it needs "
      f"allocation='global'; got {allocation!r}."
    )

  def init_fn(weights):
    connections = prunable_leaves(weights, prunable)
    return GradualMagnitudeState(
      count=jnp.zeros((), jnp.int32),
      masks=jax.tree.map(lambda w: jnp.full_like(w, True, bool), connections),
      budget=distributions.budgets(connections, target_density, allocation),
      end_step=jnp.asarray(end_step, jnp.int32),
    )

  def update_fn(grads, state, weights):
    end = end_in_force(end_step, state.end_step, state.count)
    state = state._replace(end_step=end)
    since = state.count - begin_step
    is_due = (since >= 0) & (since % update_every == 0) & (state.count <= end)
    return jax.lax.cond(
      is_due | (state.count == end),
      choose,
      _keep,
      grads,
      state,
      weights,
    )

  def choose(grads, state, weights):
    connections = tree_lib.keep_where(weights, state.masks)
    num_steps = jnp.maximum(end_step - begin_step, 1)
    left = (state.end_step - state.count) / num_steps
    surplus = jnp.asarray(left, jnp.float32) ** 3
    if allocation == 'global':
      total = sum(w.size for w in jax.tree.leaves(connections))
      budget = _between(state.budget, total, surplus)
    else:
      budget = jax.tree.map(
        lambda w, n: _between(n, w.size, surplus), connections, state.budget
      )
    if score == 'lamp':
      budget = scores_lib.lamp_budgets(connections, budget)
    if score == 'saliency':
      grads = tree_lib.keep_where(grads, state.masks)
      values = scores_lib.saliency(connections, grads)
    else:
      values = scores_lib.magnitude(connections)
    masks = thresholding.keep_highest(values, budget)
    new = _keep(grads, state, weights)
    new = new._replace(masks=stored_like(masks, state.masks))
    if score != 'saliency':
      return new
    is_good = all_finite(values)
    return jax.tree.map(lambda x, y: jnp.where(is_good, x, y), new, state)

  return MaskRule(init_fn, update_fn)


def _keep(grads, state, weights):
  del grads, weights
  return state._replace(count=jnp.asarray(optax.safe_increment(state.count)))


def _between(final: jax.Array, total: int, surplus: jax.Array) -> wide.Wide:
  """The budget while a share of the surplus is left; exact at 0."""
  most = wide.minus(wide.from_int(total), wide.from_array(final))
  rest = jnp.round(wide.to_float(most) * surplus)
  return wide.plus(wide.from_array(final), wide.from_float(rest))
