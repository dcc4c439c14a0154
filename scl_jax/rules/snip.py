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
"""SNIP: pruning at the start, by the sensitivity of the loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import checks
from scl_jax import distributions
from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import all_finite
from scl_jax.mask_rule import stored_like
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class SNIPState(NamedTuple):
  """State of the rule `snip`.

  Attributes:
    count: Steps so far, int32; those before the choice with finite g w.
    masks: bool; `None` at leaves that are not prunable.
    budget: The connections to keep, int32.
    sensitivity: The sum of g w so far, float32; `None` for one batch.
  """

  count: ArrayLike
  masks: PyTree
  budget: jax.Array
  sensitivity: PyTree | None


def snip(
  target_density: ArrayLike,
  *,
  num_batches: int = 1,
  prunable: Prunable = None,
) -> MaskRule:
  """SNIP, single-shot pruning (Lee, Ajanthan, Torr, arXiv 1810.02340).

  With the first update, before any training, the connections with the highest
  |g w| over all layers stay: to first order, these change the loss most when
  they go. Masks are fixed from then on. A batch with a g w that is not finite
  does not count: the next one decides in its place.

  Args:
    target_density: The density, in (0, 1]; it may be traced.
    num_batches: The number n of updates over which g w is averaged; the n-th
      prunes. The network is dense and trains until then, so n should be small.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range.

  Example:
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), snip(0.05))
  """
  checks.check_density('target_density', target_density)
  checks.check_whole('num_batches', num_batches, 1)

  def init_fn(weights):
    connections = prunable_leaves(weights, prunable)
    zeros = lambda w: jnp.zeros_like(w, dtype=jnp.float32)
    return SNIPState(
      count=jnp.zeros((), jnp.int32),
      masks=jax.tree.map(lambda w: jnp.full_like(w, True, bool), connections),
      budget=distributions.budgets(connections, target_density, 'global'),
      sensitivity=jax.tree.map(zeros, connections) if num_batches > 1 else None,
    )

  def update_fn(grads, state, weights):
    return jax.lax.cond(
      state.count < num_batches, look, _keep, grads, state, weights
    )

  def look(grads, state, weights):
    total = jax.tree.map(
      lambda g, w: (g * w).astype(jnp.float32),
      tree_lib.keep_where(grads, state.masks),
      tree_lib.keep_where(weights, state.masks),
    )
    new = _keep(grads, state, weights)
    if state.sensitivity is None:
      new = new._replace(masks=_choose(total, state))
    else:
      total = jax.tree.map(jnp.add, total, state.sensitivity)
      masks = jax.lax.cond(
        state.count == num_batches - 1,
        _choose,
        lambda total, state: state.masks,
        total,
        state,
      )
      new = new._replace(masks=masks, sensitivity=total)
    is_good = all_finite(total)
    return jax.tree.map(lambda x, y: jnp.where(is_good, x, y), new, state)

  return MaskRule(init_fn, update_fn)


def _choose(total, state):
  scores = jax.tree.map(jnp.abs, total)
  masks = thresholding.keep_highest(scores, state.budget)
  return stored_like(masks, state.masks)


def _keep(grads, state, weights):
  del grads, weights
  return state._replace(count=jnp.asarray(optax.safe_increment(state.count)))
