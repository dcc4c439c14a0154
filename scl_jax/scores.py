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
"""Scores: how important a connection is.

LAMP (arXiv 2010.07611) compares magnitudes across layers: a connection's score
is its share of what would be left of the layer if all smaller ones went,

    w² / Σ w'² over |w'| >= |w|

Of equal weights one comes after another, as in a sorted list: with S the sum
over the larger ones, the i-th has w² / (S + i w²). So the first of each layer
has the score 1, and no layer is emptied before all others are down to one.

Within a layer that is the order of |w|. So what the scores decide is how many
connections each layer keeps, and this module finds these numbers, by bisection
of the score and, for each score and layer, of the magnitude. Nothing is sorted,
so sharded arrays stay where they are; it takes 32 × 32 passes.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax import wide

PyTree = tree_lib.PyTree
Score = Literal['magnitude', 'saliency', 'lamp']
SCORES: tuple[str, ...] = get_args(Score)

# The bits of 1.0 and of +inf; those of floats >= 0 sort as they do.
_ONE, _INF = 0x3F800000, 0x7F800000


def magnitude(weights: PyTree) -> PyTree:
  """|w|."""
  return jax.tree.map(jnp.abs, weights)


def saliency(weights: PyTree, grads: PyTree) -> PyTree:
  """|g w|, to first order the change of the loss if the connection goes."""
  return jax.tree.map(lambda w, g: jnp.abs(g * w), weights, grads)


def lamp_budgets(weights: PyTree, budget: ArrayLike | wide.Wide) -> PyTree:
  """How many connections each layer keeps under global LAMP scores.

  Args:
    weights: The prunable leaves, `None` elsewhere.
    budget: How many to keep in all.

  Returns:
    A tree like `weights` of int32 scalars, whose sum is the budget. Where
    scores tie, earlier leaves keep theirs.

  Example:
    >>> weights = {'a': jnp.array([1.0, 9.0]), 'b': jnp.array([0.1, 0.1])}
    >>> lamp_budgets(weights, 3)
    {'a': Array(1, dtype=int32), 'b': Array(2, dtype=int32)}
  """
  leaves, treedef = jax.tree.flatten(weights)
  sizes = [_relative(leaf) for leaf in leaves]
  budget = wide.from_array(budget)

  def kept(score_bits):
    score = _float(score_bits)
    return _counts_from(sizes, score)

  def total(counts):  # may be beyond int32
    return wide.total(wide.from_array(counts))

  # The highest score at which enough are kept, and what is above it.
  threshold = thresholding.bisect(
    lambda t: wide.at_most(budget, total(kept(t))), 0, _ONE
  )
  most, least = kept(threshold), kept(threshold + 1)
  rest = wide.minus(budget, total(least))
  surplus = wide.from_array(most - least)
  before = wide.minus(wide.running_totals(surplus), surplus)
  rest = wide.minus(rest, before)
  taken = jnp.where(wide.at_most(surplus, rest), surplus.low, rest.low)
  counts = [*(least + taken.astype(jnp.int32))]
  return jax.tree.unflatten(treedef, counts)


def _relative(weight: jax.Array) -> jax.Array:
  """|w| / max |w|; the score does not change, and no square overflows."""
  size = jnp.abs(weight.astype(jnp.float32))
  largest = jnp.max(size, initial=0.0)
  return size / jnp.where(largest > 0, largest, 1.0)


def _counts_from(sizes: Sequence[jax.Array], score: jax.Array) -> jax.Array:
  """How many entries of each layer have at least this score."""

  def sums_above(bounds):
    return jnp.stack(
      [
        jnp.sum(jnp.where(size > bound, jnp.square(size), 0.0))
        for size, bound in zip(sizes, bounds, strict=True)
      ]
    )

  def are_below(bits):
    bounds = _float(bits)
    left = sums_above(bounds) + jnp.square(bounds)
    # The largest is 1; so be it in a layer of zeros, whose scores are 0.
    left = jnp.maximum(left, jnp.where(bounds <= 1, 1.0, 0.0))
    return jnp.square(bounds) < score * left

  # The score rises with the magnitude, so the first that is not below. One loop
  # for all layers, as XLA compiles each.
  low, high = (jnp.full(len(sizes), x, jnp.int32) for x in (-1, _INF))
  lowest = _float(thresholding.bisect(are_below, low, high) + 1)
  squares = jnp.square(lowest)
  pairs = list(zip(sizes, lowest, strict=True))
  count = lambda entries: jnp.sum(entries, dtype=jnp.int32)
  equal = jnp.stack([count(size == bound) for size, bound in pairs])
  # The last i at which w² / (S + i w²) is not below; all where w² or it is 0.
  are_scored = (squares > 0) & (score > 0)
  last = 1 / score - sums_above(lowest) / jnp.where(are_scored, squares, 1.0)
  last = jnp.where(are_scored, jnp.maximum(jnp.floor(last), 1.0), jnp.inf)
  are_cut = last < equal.astype(jnp.float32)
  equal = jnp.where(are_cut, last.astype(jnp.int32), equal)
  return equal + jnp.stack([count(size > bound) for size, bound in pairs])


def _float(bits: jax.Array) -> jax.Array:
  return jax.lax.bitcast_convert_type(bits, jnp.float32)
