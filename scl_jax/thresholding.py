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
from scl_jax import wide

PyTree = tree_lib.PyTree

_INT32 = jnp.iinfo(jnp.int32)


def keep_highest(
  scores: PyTree,
  budget: ArrayLike | wide.Wide,
  *,
  costs: PyTree | None = None,
  rates: PyTree | None = None,
) -> PyTree:
  """Masks of the highest scores over all leaves that the budget can pay.

  With costs of 1 exactly `budget` entries are kept. Among equal scores those
  come first that lie in an earlier leaf, then at an earlier position; the first
  that is too dear ends it.

  Args:
    scores: Floating-point arrays without NaN, `None` elsewhere.
    budget: What may be kept in all, a whole number >= 0.
    costs: The cost of each entry, a tree like `scores` of whole numbers >= 1
      or arrays of them that broadcast; `None` is 1 for all. Their sum over a
      leaf must be below 2^31.
    rates: What one unit of cost is worth in each leaf, a tree like `scores` of
      whole numbers in [0, 2^32); `None` is 1 for all. The sum of costs times
      rates must be below 2^64, with a budget above 2^31 - 1 as a `wide.Wide`.

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
  entries = [1] * len(leaves) if costs is None else treedef.flatten_up_to(costs)
  factors = [1] * len(leaves) if rates is None else treedef.flatten_up_to(rates)
  prices = list(zip(entries, factors, strict=True))
  if not isinstance(budget, wide.Wide):
    whole = jnp.maximum(jnp.asarray(budget, jnp.int32), 0)
    budget = wide.Wide(
      jnp.zeros_like(whole, jnp.uint32), whole.astype('uint32')
    )
  keys = [_ordered_int(leaf) for leaf in leaves]

  # The lowest threshold above which everything can be paid.
  threshold = 1 + _bisect(
    lambda t: ~wide.at_most(_sum([key > t for key in keys], prices), budget),
    _INT32.min,
    _INT32.max - 1,
  )
  above = [key > threshold for key in keys]
  tied = [key == threshold for key in keys]
  rest = wide.minus(budget, _sum(above, prices))

  masks = []
  for higher, equal, price in zip(above, tied, prices, strict=True):
    paid = equal & _first(equal, price, rest)
    # One that is too dear ends it, for the leaves that follow as well.
    is_all = jnp.all(paid == equal)
    rest = wide.minus(rest, _sum([paid], [price]))
    rest = jax.tree.map(lambda r, a=is_all: jnp.where(a, r, 0), rest)
    masks.append((higher | paid).astype(jnp.float32))
  return jax.tree.unflatten(treedef, masks)


def _first(
  chosen: jax.Array, price: tuple[ArrayLike, ArrayLike], budget: wide.Wide
) -> jax.Array:
  """Whether a position is among the first, in which the chosen can be paid."""
  position = jnp.zeros(chosen.shape, jnp.int32)
  for axis, size in enumerate(chosen.shape):
    position = position * size + jax.lax.broadcasted_iota(
      jnp.int32, chosen.shape, axis
    )
  limit = _bisect(
    lambda t: wide.at_most(_sum([chosen & (position < t)], [price]), budget),
    0,
    chosen.size,
  )
  return position < limit


def _bisect(
  holds: Callable[[jax.Array], jax.Array], low: int, high: int
) -> jax.Array:
  """The largest t in [low, high] where a falling predicate holds, or `low`."""

  def body(_, bounds):
    low, high = bounds
    # Rounded up, and without overflow over the whole range of int32.
    middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
    good = holds(middle) | (low == high)
    return jnp.where(good, middle, low), jnp.where(good, high, middle - 1)

  bounds = (jnp.asarray(low, jnp.int32), jnp.asarray(high, jnp.int32))
  return jax.lax.fori_loop(0, 32, body, bounds)[0]


def _sum(
  chosen: Sequence[jax.Array], prices: Sequence[tuple[ArrayLike, ArrayLike]]
) -> wide.Wide:
  total = wide.from_int(0)
  for which, (cost, rate) in zip(chosen, prices, strict=True):
    count = jnp.sum(which.astype(jnp.int32) * jnp.asarray(cost, jnp.int32))
    total = wide.plus(total, wide.times(count.astype(jnp.uint32), rate))
  return total


def _ordered_int(scores: jax.Array) -> jax.Array:
  """int32 that sort as the scores do; 0.0 and -0.0 are equal."""
  bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
  # The magnitude with its sign. (XLA would drop a `scores + 0.0`.)
  return jnp.where(bits < 0, _INT32.min - bits, bits)
