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
"""Carries the state of an optimizer over to a smaller model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import state as state_lib
from scl_jax import tree as tree_lib
from scl_jax.compaction import reduction
from scl_jax.compaction import running

PyTree = tree_lib.PyTree


def carry(reduced: reduction.Reduction, state: PyTree) -> PyTree:
  """The state of an optimizer, for the small params.

  A leaf of the state belongs to the params' leaf whose path its own path ends
  with: moments, weights, masks and mask variables do. It is cut like that leaf;
  axes of size 1 (one mask variable a feature, a norm) are left alone. What goes
  into the biases of the small params goes into the weights that `sparsify`
  holds as well.

  Args:
    reduced: The reduction.
    state: The state of an optax optimizer for the original params.

  Returns:
    A state of the same structure.

  Raises:
    ValueError: If a leaf cannot be cut, such as a factored moment or a mask
      variable for a block.
  """
  leaves, treedef = jax.tree.flatten(state)
  rows = zip(
    tree_lib.owners(state, reduced.params),
    tree_lib.paths(state),
    leaves,
    strict=True,
  )
  cut = treedef.unflatten(_cut(reduced, *row) for row in rows)
  is_sparse = lambda node: isinstance(node, state_lib.SparsifyState)

  def add_folds(node):
    if not is_sparse(node):
      return node
    return node._replace(weights=_add_folds(reduced, node.weights))

  return jax.tree.map(add_folds, cut, is_leaf=is_sparse)


def _cut(
  reduced: reduction.Reduction, owner: int | None, path: str, leaf: Any
) -> Any:
  """A leaf of the state without what was removed from its owner."""
  if owner is None:
    return leaf
  kept = reduced.kept[owner]
  whole = jax.tree.leaves(reduced.params)[owner].shape
  shape = jnp.shape(leaf)
  if len(shape) == len(whole) and all(
    size in (1, full) or len(indices) == full
    for size, full, indices in zip(shape, whole, kept, strict=True)
  ):
    masks = [
      None if size == 1 and full != 1 else indices
      for size, full, indices in zip(shape, whole, kept, strict=True)
    ]
    return running.take(leaf, masks)
  if all(len(i) == n for i, n in zip(kept, whole, strict=True)) or not shape:
    return leaf
  raise ValueError(
    f'opt_state has a leaf {path!r} of shape {shape}, which cannot '
    f'be cut like {reduced.paths[owner]!r} of shape {whole}: it has no entry '
    'for each index of the axes. Start this part of the state anew.'
  )


def _add_folds(reduced: reduction.Reduction, weights: PyTree) -> PyTree:
  """Adds to the small weights what was folded into the small params."""

  def add(index, weight):
    if index not in reduced.folds:
      return weight
    amount = reduced.folds[index][np.ix_(*reduced.kept[index])]
    return (weight + amount).astype(weight.dtype)

  leaves, treedef = jax.tree.flatten(weights)
  return treedef.unflatten(
    map(add, tree_lib.owners(weights, reduced.params), leaves)
  )
