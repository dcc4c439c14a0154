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
"""Masks that are given: keep these zeros."""

from typing import NamedTuple

import jax
from jax import core
import jax.numpy as jnp

from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class StaticMasksState(NamedTuple):
  """State of the rule `static_masks`.

  Attributes:
    masks: bool; `None` at leaves that are not prunable.
  """

  masks: PyTree


def static_masks(
  masks: PyTree | None = None, *, prunable: Prunable = None
) -> MaskRule:
  """Masks that never change, for fine-tuning what is sparse already.

  Args:
    masks: Arrays of {0, 1} or bools that expand to the shapes of the weights,
      `None` at leaves that are not prunable; such as `get_masks` returns.
      Without them, entries of the prunable leaves that are 0 at `init` stay 0.
    prunable: Which leaves carry connections where `masks` is `None`, see
      `scl_jax.prunable`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If masks are given and hold no array or anything but 0 and 1,
      or leaves are selected twice; at `init`, if masks do not fit the weights.

  Example:
    >>> params = {'w': jnp.array([[1.0, 0.0]]), 'b': jnp.zeros(2)}
    >>> tx = scl_jax.sparsify(optax.sgd(0.1), static_masks())
    >>> scl_jax.get_masks(tx.init(params))['w']
    Array([[1., 0.]], dtype=float32)
  """
  if masks is not None:
    _check_masks(masks, prunable)

  def init_fn(weights):
    if masks is None:
      connections = prunable_leaves(weights, prunable)
      return StaticMasksState(jax.tree.map(lambda w: w != 0, connections))
    rows = tree_lib.zip_leaves(weights, masks)
    fitted = [
      None
      if mask is None
      else jnp.array(masks_lib.expand(jnp.asarray(mask), w.shape, path), bool)
      for path, w, mask in rows
    ]
    treedef = jax.tree.structure(weights)
    return StaticMasksState(jax.tree.unflatten(treedef, fitted))

  def update_fn(grads, state, weights):
    del grads, weights
    return state

  return MaskRule(init_fn, update_fn)


def _check_masks(masks: PyTree, prunable: Prunable) -> None:
  if prunable is not None:
    raise ValueError(
      'Give masks or prunable, not both: masks say by their None leaves what '
      'is prunable.'
    )
  if not jax.tree.leaves(masks):
    raise ValueError('masks holds no array, so there is nothing to keep.')
  tree_lib.check_arrays(masks, 'masks')
  for path, mask in tree_lib.zip_leaves(masks):
    if isinstance(mask, core.Tracer):
      continue
    with jax.ensure_compile_time_eval():  # within `jax.jit` as well
      is_binary = bool(jnp.all((mask == 0) | (mask == 1)))
    if not is_binary:
      raise ValueError(
        f'masks must hold 0 and 1 only, but the leaf {path!r} holds others.'
      )
