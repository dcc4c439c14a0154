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
"""Scores and a number of connections → masks.

The threshold is found by bisection on counts. Nothing is sorted or flattened,
so sharded arrays stay where they are, and a billion scores cost 32 passes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def keep_highest(scores: PyTree, count: ArrayLike) -> PyTree:
  """Masks of the `count` highest scores over all leaves, exactly.

  Among equal scores those come first that lie in an earlier leaf, then at an
  earlier position.

  Args:
    scores: Floating-point arrays without NaN, `None` elsewhere.
    count: How many to keep, a whole number in [0, number of scores].

  Returns:
    A tree like `scores` of float32 arrays of {0, 1}.

  Raises:
    ValueError: If `scores` holds no array.

  Example:
    >>> keep_highest({'w': jnp.array([3.0, 1.0, 2.0, 2.0])}, 2)
    {'w': Array([1., 0., 1., 0.], dtype=float32)}
  """
  leaves, treedef = jax.tree.flatten(scores)
  if not leaves:
    raise ValueError('scores holds no array, so there is nothing to keep.')
  count = jnp.asarray(count, jnp.int32)
  keys = [_ordered_int(leaf) for leaf in leaves]

  # The lowest key that is kept: the largest t with count(keys >= t) >= count.
  threshold = _bisect(
      lambda t: _count([key >= t for key in keys]) >= count,
      jnp.iinfo(jnp.int32).min,
      jnp.iinfo(jnp.int32).max,
  )
  above = [key > threshold for key in keys]
  equal = [key == threshold for key in keys]
  missing = count - _count(above)

  masks = []
  for higher, tied in zip(above, equal, strict=True):
    share = jnp.minimum(missing, _count([tied]))
    masks.append(higher | (tied & _among_first(tied, share)))
    missing = missing - share
  return jax.tree.unflatten(
      treedef, [mask.astype(jnp.float32) for mask in masks]
  )


def _among_first(chosen: jax.Array, count: jax.Array) -> jax.Array:
  """Whether an entry's position is at most that of the `count`th chosen one."""
  position = jnp.zeros(chosen.shape, jnp.int32)
  for axis, size in enumerate(chosen.shape):
    position = position * size + jax.lax.broadcasted_iota(
        jnp.int32, chosen.shape, axis
    )
  limit = _bisect(
      lambda t: _count([chosen & (position < t)]) <= count, 0, chosen.size
  )
  return position < limit


def _bisect(holds: Any, low: int, high: int) -> jax.Array:
  """The largest t in [low, high] at which a falling predicate holds."""

  def body(_, bounds):
    low, high = bounds
    # Rounded up, and without overflow over the whole range of int32.
    middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
    good = holds(middle)
    return jnp.where(good, middle, low), jnp.where(good, high, middle - 1)

  bounds = (jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32))
  return jax.lax.fori_loop(0, 32, body, bounds)[0]


def _count(chosen: list[jax.Array]) -> jax.Array:
  return sum(
      (jnp.sum(c, dtype=jnp.int32) for c in chosen), jnp.zeros((), jnp.int32)
  )


def _ordered_int(scores: jax.Array) -> jax.Array:
  """int32 that sort as the scores do; 0.0 and -0.0 are equal."""
  scores = scores.astype(jnp.float32) + 0.0
  bits = jax.lax.bitcast_convert_type(scores, jnp.int32)
  return jnp.where(bits < 0, ~bits ^ jnp.iinfo(jnp.int32).min, bits)
