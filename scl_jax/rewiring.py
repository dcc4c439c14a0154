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

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import thresholding


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
  mask: jax.Array,
  keep_scores: jax.Array,
  grow_scores: jax.Array,
  fraction: ArrayLike,
) -> jax.Array:
  """Drops the lowest live connections of a layer and grows the highest others.

  A connection that has just been dropped may grow at once; then it has never
  been away.

  Args:
    mask: The layer's mask, bool.
    keep_scores: Scores of which the lowest live ones are dropped.
    grow_scores: Scores of which the highest are grown, where nothing is live
      after the drop.
    fraction: The share of live connections to move, in [0, 1].

  Returns:
    A mask with as many connections, bool.

  Example:
    >>> mask = jnp.array([True, True, False, False])
    >>> rewire(mask, jnp.array([1.0, 2, 0, 0]), jnp.array([0.0, 0, 3, 4]), 0.5)
    Array([False,  True, False,  True], dtype=bool)
  """
  live = jnp.sum(mask, dtype=jnp.int32)
  moved = jnp.floor(fraction * live.astype(jnp.float32)).astype(jnp.int32)
  keep_scores = jnp.where(mask, keep_scores, -jnp.inf)
  stays = thresholding.keep_highest(keep_scores, live - moved) > 0
  grow_scores = jnp.where(stays, -jnp.inf, grow_scores)
  return stays | (thresholding.keep_highest(grow_scores, moved) > 0)
