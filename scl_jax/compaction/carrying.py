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

from scl_jax import tree as tree_lib
from scl_jax.compaction import reduction
from scl_jax.compaction import running

PyTree = tree_lib.PyTree


# Fields in which states hold values of params, not of gradients: of `sparsify`,
# schedule-free, MADGRAD and mechanize, DoG and DoWG, Prodigy, COCOB, and SAM.
_VALUES_OF_PARAMS = frozenset(
  {'weights', 'z', 'x0', 'init_params', 'params0', 'init_particles', 'cache'}
)


def carry(reduced: reduction.Reduction, state: PyTree) -> PyTree:
  """The state of an optimizer, for the small params.

  A leaf of the state belongs to the params' leaf whose path its own path ends
  with: moments, weights, masks and mask variables do. It is cut like that leaf;
  axes of size 1 (one mask variable a feature, a norm) are left alone. What goes
  into the biases of the small params goes into the values of params that states
  hold as well: the weights of `sparsify`, the start of `optax.contrib.madgrad`.

  Args:
    reduced: The reduction.
    state: The state of an optax optimizer for the original params.

  Returns:
    A state of the same structure.

  Raises:
    ValueError: If a leaf cannot be cut, such as a factored moment or a mask
      variable for a block, or nothing in the state belongs to the params.
  """
  leaves, treedef = jax.tree.flatten(state)
  owners = tree_lib.owners(state, reduced.params)
  rows = zip(owners, tree_lib.paths(state), leaves, strict=True)
  carried = [_carry_leaf(reduced, *row) for row in rows]
  if set(owners) == {None} and any(jnp.ndim(leaf) for leaf in leaves):
    raise ValueError(
      'opt_state holds nothing for these params, of which the first are '
      f'{list(reduced.paths[:5])}: it is the state of an optimizer of others.'
    )
  return treedef.unflatten(carried)


def _carry_leaf(
  reduced: reduction.Reduction, owner: int | None, path: str, leaf: Any
) -> Any:
  if owner is None:
    _check_left_alone(reduced, path, leaf)
    return leaf
  leaf = _cut(reduced, owner, path, leaf)
  field = path.removesuffix(reduced.paths[owner]).rstrip('/').split('/')[-1]
  if field in _VALUES_OF_PARAMS and owner in reduced.folds:
    amount = reduced.folds[owner][np.ix_(*reduced.kept[owner])]
    leaf = (leaf + amount).astype(leaf.dtype)
  return leaf


def _check_left_alone(
  reduced: reduction.Reduction, path: str, leaf: Any
) -> None:
  """Raises if a leaf without an owner is part of what is cut, or all in one."""
  if not jnp.ndim(leaf):
    return
  wholes = jax.tree.leaves(reduced.params)
  cut = [
    name
    for name, kept, whole in zip(
      reduced.paths, reduced.kept, wholes, strict=True
    )
    if any(len(i) != n for i, n in zip(kept, whole.shape, strict=True))
  ]
  is_part = any(f'/{name}/' in f'/{path}' for name in cut)
  if is_part or (cut and jnp.size(leaf) == sum(x.size for x in wholes)):
    raise ValueError(
      f'opt_state has a leaf {path!r} of shape {jnp.shape(leaf)}, which cannot '
      f'be cut: it is not kept as {cut[0]!r} is, axis by axis. Start this part '
      'of the state anew.'
    )


def _cut(reduced: reduction.Reduction, owner: int, path: str, leaf: Any) -> Any:
  """A leaf of the state without what was removed from its owner."""
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
  is_whole = all(len(i) == n for i, n in zip(kept, whole, strict=True))
  if is_whole or jnp.size(leaf) == 1:  # a placeholder of Adafactor
    return leaf
  raise ValueError(
    f'opt_state has a leaf {path!r} of shape {shape}, which cannot '
    f'be cut like {reduced.paths[owner]!r} of shape {whole}: it has no entry '
    'for each index of the axes. Start this part of the state anew.'
  )
