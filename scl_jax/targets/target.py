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
"""What a target is, and what all of them share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree
Densities = ArrayLike | Mapping[str, ArrayLike]

# The controller aims this far below the target, because a cut that opens
# connections at the end costs nothing and one that closes them does.
AIM = 0.98
# A mask variable on either side of the threshold after the cut.
_OPEN, _CLOSED = 1e-6, -1e-6


class Target(NamedTuple):
  """Pure functions that drive masks to a target.

  Trees are like the mask variables, with `None` at leaves that are not
  prunable; `sizes` are `masks.variable_sizes`. For densities of layers the
  fields of the control state, the budget and λ are trees, else there is one.

  Attributes:
    init: `(weights, mask_params) -> (control state, budget)`; raises
      `ValueError` where the target cannot be reached.
    price: `(control state, count, gradients, masks, sizes) -> (λ, control
      state)`; `gradients` is a function that gives them.
    charges: `(λ, gradients) -> prices`, one of a connection of each leaf.
    cut: `(mask_params, sizes, budget, when) -> mask_params`, with the highest
      above 0 as far as the budget goes, and the others below. Needs no more
      than an elementwise pass where `when` is false; what it gives is then
      meaningless.
  """

  init: Callable[[PyTree, PyTree], tuple[Any, Any]]
  price: Callable[..., tuple[Any, Any]]
  charges: Callable[[Any, PyTree], PyTree]
  cut: Callable[[PyTree, PyTree, Any, jax.Array], PyTree]


def sizes_of(weights: PyTree, mask_params: PyTree) -> PyTree:
  """How many connections each mask variable stands for."""
  return jax.tree.map(
    lambda m, w: masks_lib.variable_sizes(m.shape, w.shape),
    mask_params,
    tree_lib.keep_where(weights, mask_params),
  )


def smallest_size(sizes: PyTree, rates: PyTree | None = None) -> int:
  """The least that a mask variable stands for; 0 where there is none.

  Args:
    sizes: As `sizes_of` gives them.
    rates: What each connection counts, a number for each leaf; `None` is 1.
  """
  if rates is None:
    rates = jax.tree.map(lambda _: 1, sizes)
  counts = [
    rate * int(n.min())
    for rate, n in zip(
      jax.tree.leaves(rates), jax.tree.leaves(sizes), strict=True
    )
    if n.size
  ]
  return min(counts, default=0)


def open_where(keep: PyTree, mask_params: PyTree) -> PyTree:
  """Puts mask variables above 0 where masks say so, and the others below."""
  return jax.tree.map(
    lambda m, k: jnp.where(
      k > 0, jnp.maximum(m, _OPEN), jnp.minimum(m, _CLOSED)
    ),
    mask_params,
    keep,
  )
