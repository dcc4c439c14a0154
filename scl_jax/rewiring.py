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
"""Moving the connections of a sparse network: drop some, grow as many.

What RigL and SET have in common; they differ in where connections grow.
"""

from collections.abc import Callable
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
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import finite_or_zero
from scl_jax.mask_rule import stored_like
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class RewiringState(NamedTuple):
  """State of a rule that moves connections.

  Attributes:
    count: Steps so far, int32.
    masks: bool; `None` at leaves that are not prunable.
  """

  count: ArrayLike
  masks: PyTree


def make_rule(
  grow_scores: Callable[[PyTree, RewiringState, PyTree], PyTree],
  target_density: float,
  *,
  start_key: jax.Array,
  end_step: int,
  update_every: int,
  initial_fraction: float,
  allocation: distributions.Layerwise,
  prunable: Prunable,
) -> MaskRule:
  """A rule that starts at random and moves connections now and then.

  Args:
    grow_scores: `(grads, state, weights) -> scores` of the prunable leaves, of
      which the highest grow; called in the steps that move connections only.
    target_density: The density, in (0, 1].
    start_key: A key of `jax.random`, for the connections to start with.
    end_step: The step from which on masks are fixed.
    update_every: How many steps lie between two changes.
    initial_fraction: See `drop_fraction`.
    allocation: See `scl_jax.layer_budgets`.
    prunable: Which leaves carry connections.

  Returns:
    A `MaskRule`, whose state is a `RewiringState`.

  Raises:
    ValueError: If an argument is out of its range.
  """
  checks.check_density('target_density', target_density)
  checks.check_whole('end_step', end_step, 1)
  checks.check_whole('update_every', update_every, 1)
  checks.check_scalar(
    'initial_fraction', initial_fraction, lambda x: 0 <= x <= 1, 'in [0, 1]'
  )
  checks.check_choice('allocation', allocation, distributions.LAYERWISE)

  def init_fn(weights):
    connections = prunable_leaves(weights, prunable)
    budget = distributions.budgets(connections, target_density, allocation)
    return RewiringState(
      count=jnp.zeros((), jnp.int32),
      masks=thresholding.random_masks(connections, budget, start_key),
    )

  def update_fn(grads, state, weights):
    is_due = (state.count > 0) & (state.count < end_step)
    masks = jax.lax.cond(
      is_due & (state.count % update_every == 0),
      move,
      _keep,
      grads,
      state,
      weights,
    )
    return RewiringState(optax.safe_increment(state.count), masks)

  def move(grads, state, weights):
    fraction = drop_fraction(state.count, end_step, initial_fraction)
    connections = tree_lib.keep_where(weights, state.masks)
    masks = rewire(
      state.masks,
      scores_lib.magnitude(connections),
      grow_scores(grads, state, weights),
      fraction,
    )
    return stored_like(masks, state.masks)

  return MaskRule(init_fn, update_fn, resumes_weights=False)


_keep = lambda grads, state, weights: state.masks


def drop_fraction(
  count: ArrayLike, end_step: ArrayLike, initial: ArrayLike
) -> jax.Array:
  """The share of live connections that moves: initial/2 (1 + cos(π t / T)).

  RigL (arXiv 1911.11134, section 3).

  Args:
    count: t, the step.
    end_step: T, when it reaches 0.
    initial: The share at step 0.

  Returns:
    A float32 scalar.

  Example:
    >>> drop_fraction(0, end_step=100, initial=0.5)
    Array(0.5, dtype=float32)
  """
  share = jnp.asarray(count, jnp.float32) / end_step
  angle = jnp.pi * jnp.minimum(share, 1.0)
  return jnp.asarray(initial, jnp.float32) / 2 * (1 + jnp.cos(angle))


def rewire(
  masks: PyTree, keep_scores: PyTree, grow_scores: PyTree, fraction: ArrayLike
) -> PyTree:
  """Drops each layer's lowest live connections and grows its highest others.

  A connection that has just been dropped may grow at once; then it has never
  been away. A layer in which no score to grow is finite stays as it is.

  Args:
    masks: The layers' masks, bool.
    keep_scores: Scores of which the lowest live ones are dropped.
    grow_scores: Scores >= 0 of which the highest are grown, where nothing is
      live after the drop; 0 where they are not finite.
    fraction: The share of live connections to move, in [0, 1].

  Returns:
    Masks with as many connections, bool.

  Example:
    >>> mask = jnp.array([True, True, False, False])
    >>> rewire(mask, jnp.array([1.0, 2, 0, 0]), jnp.array([0.0, 0, 3, 4]), 0.5)
    Array([False,  True, False,  True], dtype=bool)
  """

  def number_moved(number, scores):
    moved = jnp.floor(fraction * number.astype(jnp.float32)).astype(jnp.int32)
    return jnp.where(jnp.isfinite(scores).any(), moved, 0)

  live = jax.tree.map(lambda mask: jnp.sum(mask, dtype=jnp.int32), masks)
  moved = jax.tree.map(number_moved, live, grow_scores)
  stays = _highest(
    jax.tree.map(
      lambda mask, score: jnp.where(mask, score, -jnp.inf), masks, keep_scores
    ),
    jax.tree.map(jnp.subtract, live, moved),
  )
  grown = _highest(
    jax.tree.map(
      lambda stay, score: jnp.where(stay, -jnp.inf, finite_or_zero(score)),
      stays,
      grow_scores,
    ),
    moved,
  )
  return jax.tree.map(jnp.logical_or, stays, grown)


def _highest(scores: PyTree, numbers: PyTree) -> PyTree:
  masks = thresholding.keep_highest(scores, numbers)
  return jax.tree.map(lambda mask: mask > 0, masks)
