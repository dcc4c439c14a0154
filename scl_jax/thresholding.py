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
"""Scores and a budget → masks.

The threshold is found by bisection on counts. Nothing is sorted or flattened,
so sharded arrays stay where they are, and a billion scores cost 32 passes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

_INT32 = jnp.iinfo(jnp.int32)


def keep_highest(
  scores: PyTree, budget: PyTree, *, costs: PyTree | None = None
) -> PyTree:
  """Masks of the highest scores over all leaves that the budget can pay.

  With costs of 1 exactly `budget` entries are kept. Among equal scores those
  come first that lie in an earlier leaf, then at an earlier position; the first
  that is too dear ends it.

  Args:
    scores: Floating-point arrays without NaN, `None` elsewhere.
    budget: What may be kept in all, a whole number >= 0; or a tree like
      `scores` of what may be kept of each leaf.
    costs: The cost of each entry, a tree like `scores` of whole numbers >= 1
      or arrays of them that broadcast; `None` is 1 for all. Their sum must be
      below 2^31.

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
  if not jax.tree_util.all_leaves([budget]):
    costs = jax.tree.map(lambda _: 1, scores) if costs is None else costs
    return jax.tree.map(
      lambda leaf, most, price: keep_highest(leaf, most, costs=price),
      scores,
      budget,
      costs,
    )
  prices = [1] * len(leaves) if costs is None else treedef.flatten_up_to(costs)
  budget = jnp.asarray(budget, jnp.int32)
  keys = [_ordered_int(leaf) for leaf in leaves]

  # The lowest threshold above which everything can be paid.
  threshold = 1 + bisect(
    lambda t: _sum([key > t for key in keys], prices) > budget,
    _INT32.min,
    _INT32.max - 1,
  )
  above = [key > threshold for key in keys]
  tied = [key == threshold for key in keys]
  rest = budget - _sum(above, prices)

  masks = []
  for higher, equal, price in zip(above, tied, prices, strict=True):
    paid = equal & _first(equal, price, rest)
    spent = _sum([paid], [price])
    # One that is too dear ends it, for the leaves that follow as well.
    rest = jnp.where(spent == _sum([equal], [price]), rest - spent, 0)
    masks.append((higher | paid).astype(jnp.float32))
  return jax.tree.unflatten(treedef, masks)


def random_masks(weights: PyTree, budget: PyTree, key: jax.Array) -> PyTree:
  """Random masks: each set of connections of that number is equally likely.

  (But for ties among scores of 23 bits.) The same for every sharding of the
  weights.

  Args:
    weights: The prunable leaves, `None` elsewhere; shapes are read only.
    budget: How many connections to keep in all, or a tree for each leaf.
    key: A key of `jax.random`.

  Returns:
    A tree like `weights` of bool arrays.

  Example:
    >>> masks = random_masks({'w': jnp.ones((4, 5))}, 3, jax.random.key(0))
    >>> int(masks['w'].sum())
    3
  """
  masks = keep_highest(random_scores(weights, key), budget)
  return jax.tree.map(lambda mask: mask > 0, masks)


def random_scores(weights: PyTree, key: jax.Array) -> PyTree:
  """Uniform scores in [0, 1), of the weights' shapes and shardings."""
  leaves, treedef = jax.tree.flatten(weights)
  scores = [
    # The sum is sharded as the weight is.
    jnp.zeros_like(leaf, dtype=jnp.float32)
    + jax.random.uniform(
      jax.random.fold_in(key, index), leaf.shape, jnp.float32
    )
    for index, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(treedef, scores)


def _first(chosen: jax.Array, price: ArrayLike, budget: jax.Array) -> jax.Array:
  """Whether a position is among the first, in which the chosen can be paid."""
  position = jnp.zeros(chosen.shape, jnp.int32)
  for axis, size in enumerate(chosen.shape):
    position = position * size + jax.lax.broadcasted_iota(
      jnp.int32, chosen.shape, axis
    )
  limit = bisect(
    lambda t: _sum([chosen & (position < t)], [price]) <= budget,
    0,
    chosen.size,
  )
  return position < limit


def bisect(
  holds: Callable[[jax.Array], jax.Array], low: int, high: int
) -> jax.Array:
  """The largest t in [low, high] where a falling predicate holds, or `low`.

  Args:
    holds: A predicate of an int32 that is true up to some t and false above.
    low: The least t, int32.
    high: The greatest t, int32.

  Returns:
    An int32 scalar.

  Example:
    >>> bisect(lambda t: t * t <= 30, 0, 100)
    Array(5, dtype=int32)
  """

  def body(_, bounds):
    low, high = bounds
    # Rounded up, and without overflow over the whole range of int32.
    middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
    good = holds(middle) | (low == high)
    return jnp.where(good, middle, low), jnp.where(good, high, middle - 1)

  bounds = (jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32))
  return jax.lax.fori_loop(0, 32, body, bounds)[0]


def _sum(chosen: Sequence[jax.Array], prices: Sequence[ArrayLike]) -> jax.Array:
  return sum(
    (
      jnp.sum(c.astype(jnp.int32) * jnp.asarray(price, jnp.int32))
      for c, price in zip(chosen, prices, strict=True)
    ),
    jnp.zeros((), jnp.int32),
  )


def _ordered_int(scores: jax.Array) -> jax.Array:
  """int32 that sort as the scores do; 0.0 and -0.0 are equal."""
  bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
  # The magnitude with its sign. (XLA would drop a `scores + 0.0`.)
  return jnp.where(bits < 0, _INT32.min - bits, bits)
