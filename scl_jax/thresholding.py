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
import itertools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import tree as tree_lib
from scl_jax import wide
from scl_jax.positions import scrambled

PyTree = tree_lib.PyTree

_INT32 = jnp.iinfo(jnp.int32)
_ROUNDS = 32  # of a bisection over all int32


class Threshold(NamedTuple):
  """What separates the scores that are kept from the others.

  Attributes:
    key: The scores above this one are kept, an int32 that sorts as they do; a
      vector where each leaf has its own.
    end: Scores equal to it are kept where a hash of their place is below this
      one, as `key`.
    is_end_kept: Whether they are kept at it, too, bool, for each leaf.
  """

  key: jax.Array
  end: jax.Array
  is_end_kept: PyTree


def keep_highest(
  scores: PyTree,
  budget: PyTree,
  *,
  costs: PyTree | None = None,
  rates: PyTree | None = None,
) -> PyTree:
  """Masks of the highest scores over all leaves that the budget can pay.

  With costs of 1 exactly `budget` entries are kept. Equal scores come in an
  order that looks random, the same each time, so that no leaf, row or column is
  preferred; the first that is too dear ends it.

  Args:
    scores: Floating-point arrays without NaN, `None` elsewhere. They are
      compared in float32, also where JAX has float64: what differs in later
      digits only is equal.
    budget: What may be kept in all, a whole number >= 0; or a tree like
      `scores` of what may be kept of each leaf.
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
    >>> keep_highest({'w': jnp.array([3.0, 1.0, 2.0, 0.0])}, 2)
    {'w': Array([1., 0., 1., 0.], dtype=float32)}
  """
  threshold = find_threshold(scores, budget, costs=costs, rates=rates)
  return above(scores, threshold)


def find_threshold(
  scores: PyTree,
  budget: PyTree,
  *,
  costs: PyTree | None = None,
  rates: PyTree | None = None,
  when: ArrayLike = True,
) -> Threshold:
  """The threshold of `keep_highest`: a few numbers, found without a sort.

  Args:
    scores: As there.
    budget: As there.
    costs: As there.
    rates: As there.
    when: Whether the threshold is needed. If not it is meaningless and nothing
      is computed; under `jax.vmap` a few passes are, but no bisection unless
      some network needs one.

  Returns:
    A `Threshold`.

  Raises:
    ValueError: If `scores` holds no array.
  """
  leaves, treedef = jax.tree.flatten(scores)
  if not leaves:
    raise ValueError('scores holds no array, so there is nothing to keep.')
  if not (isinstance(budget, wide.Wide) or jax.tree_util.all_leaves([budget])):
    each = map(wide.from_array, treedef.flatten_up_to(budget))
    budget = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
  # Without costs or rates 1 stays a constant, which XLA folds.
  of_leaves = lambda tree, dtype: (
    None
    if tree is None
    else [jnp.asarray(x, dtype) for x in treedef.flatten_up_to(tree)]
  )
  threshold = jax.lax.cond(
    when,
    _find,
    _no_threshold,
    leaves,
    of_leaves(costs, jnp.int32),
    of_leaves(rates, jnp.uint32),
    wide.from_array(budget),
    jnp.where(when, _ROUNDS, 0),
  )
  is_end_kept = jax.tree.unflatten(treedef, [*threshold.is_end_kept])
  return threshold._replace(is_end_kept=is_end_kept)


def _find(leaves, costs, rates, budget, rounds):
  """The threshold, `is_end_kept` as a vector; closes over nothing.

  All leaves share one loop, also where the budget is a vector with one of each,
  and no sum goes from one leaf to the next: of a hundred leaves XLA compiled a
  loop each for half a minute, and such sums for minutes.
  """
  is_shared = budget.low.ndim == 0
  bound = lambda value: jnp.full(budget.low.shape, value, jnp.int32)
  ranks = lambda: _ranks(leaves, is_shared)
  keys = [_ordered_int(leaf) for leaf in leaves]
  rates = jnp.uint32(1) if rates is None else jnp.stack(rates)

  def paid(chosen):
    """What the chosen entries of each leaf cost."""
    counts = [
      jnp.sum(
        which.astype(jnp.int32) * jnp.asarray(cost, jnp.int32), dtype=jnp.int32
      )
      for which, cost in zip(chosen, costs or [1] * len(leaves), strict=True)
    ]
    return wide.times(jnp.stack(counts).astype(jnp.uint32), rates)

  def spent(is_chosen, values, thresholds):
    chosen = map(is_chosen, values, _each(thresholds, leaves))
    return wide.total(paid(chosen)) if is_shared else paid(chosen)

  # The lowest threshold above which everything can be paid.
  above_key = lambda key: spent(operator.gt, keys, key)
  key = 1 + bisect(
    lambda t: ~wide.at_most(above_key(t), budget),
    bound(_INT32.min),
    bound(_INT32.max - 1),
    rounds=rounds,
  )
  tied = list(map(operator.eq, keys, _each(key, leaves)))
  rest = wide.minus(budget, above_key(key))

  def below(end):
    is_below = lambda pair, t: pair[0] & (pair[1] < t)
    return spent(is_below, zip(tied, ranks(), strict=True), end)

  end = bisect(
    lambda t: wide.at_most(below(t), rest),
    bound(_INT32.min),
    bound(_INT32.max),
    rounds=rounds,
  )
  rest = wide.minus(rest, below(end))
  # One at the end at most, but if there are more than 2^32 entries. One that is
  # too dear ends it, for the leaves that follow as well.
  at_end = paid(
    e & (r == t)
    for e, r, t in zip(tied, ranks(), _each(end, leaves), strict=True)
  )
  at_end = wide.running_totals(at_end) if is_shared else at_end
  return Threshold(key, end, wide.at_most(at_end, rest))


def _no_threshold(*operands):
  return jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(_find, *operands)
  )


def above(scores: PyTree, threshold: Threshold) -> PyTree:
  """Masks of the scores above a threshold.

  Args:
    scores: The scores that it was found for.
    threshold: From `find_threshold`.

  Returns:
    A tree like `scores` of float32 arrays of {0, 1}.
  """
  leaves, treedef = jax.tree.flatten(scores)
  masks = []
  for leaf, rank, key, end, is_kept in zip(
    leaves,
    _ranks(leaves, threshold.key.ndim == 0),
    _each(threshold.key, leaves),
    _each(threshold.end, leaves),
    treedef.flatten_up_to(threshold.is_end_kept),
    strict=True,
  ):
    score = _ordered_int(leaf)
    goes_first = (rank < end) | ((rank == end) & is_kept)
    tied = (score == key) & goes_first
    masks.append(((score > key) | tied).astype(jnp.float32))
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


def bisect(
  holds: Callable[[jax.Array], jax.Array],
  low: ArrayLike,
  high: ArrayLike,
  *,
  rounds: ArrayLike = _ROUNDS,
) -> jax.Array:
  """The largest t in [low, high] where a falling predicate holds, or `low`.

  Args:
    holds: A predicate of an int32 that is true up to some t and false above; or
      of a vector of them, for each.
    low: The least t, int32.
    high: The greatest t, int32.
    rounds: How often to halve the range; 32 is enough for any.

  Returns:
    int32, of the shape of the bounds.

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
  return jax.lax.fori_loop(0, rounds, body, bounds)[0]


def _ranks(leaves: Sequence[jax.Array], is_shared: bool) -> list[jax.Array]:
  """The order of equal scores, int32: a hash of the place.

  Among the entries of all leaves, or of its own where each has a budget.
  """
  starts = itertools.accumulate((leaf.size for leaf in leaves), initial=0)
  return [
    jax.lax.bitcast_convert_type(
      scrambled(leaf.shape, np.uint32(is_shared * start % 2**32)), jnp.int32
    )
    for leaf, start in zip(leaves, starts, strict=False)
  ]


def _each(values: jax.Array, leaves: Sequence[jax.Array]) -> list[jax.Array]:
  """For each leaf its own value, or the one of all."""
  return [*values] if values.ndim else [values] * len(leaves)


def _ordered_int(scores: jax.Array) -> jax.Array:
  """int32 that sort as the scores do; 0.0 and -0.0 are equal."""
  bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
  # The magnitude with its sign. (XLA would drop a `scores + 0.0`.)
  return jnp.where(bits < 0, _INT32.min - bits, bits)
