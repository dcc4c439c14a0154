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
"""Lookups along one axis: embeddings, indices into an axis, nearest pixels."""

from collections.abc import Sequence

import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import errors
from scl_jax.inference import layout
from scl_jax.inference import products

Step = products.Step
Operands = Sequence[np.ndarray]


def _gather(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  """Slices of one entry of an axis, the others whole: `np.take`."""
  operand, indices = operands[0], operands[1][..., 0]
  axis = _axis(node, operand.shape)
  if axis is None:
    raise errors.unsupported(node, ' along several axes')
  # Axes of the result that come from the operand, and from the indices.
  offsets = node.params['dimension_numbers'].offset_dims
  places = [a for a in range(out.ndim) if a not in offsets]
  whole = [a for a in range(operand.ndim) if a != axis]
  target_of = dict(zip(whole, offsets, strict=True))

  # All are read and written in the order in which they lie.
  order, index_order = layout.order_of(operand), layout.order_of(indices)
  at = order.index(axis)
  source, indices = operand.transpose(order), indices.transpose(index_order)
  target = out.transpose(
    *(target_of[a] for a in order[:at]),
    *(places[a] for a in index_order),
    *(target_of[a] for a in order[at + 1 :]),
  )

  def take():
    # Out of range XLA takes the nearest entry, too.
    positions = indices.astype(np.intp, copy=False)
    np.take(source, positions, at, out=target, mode='clip')

  def fill():
    missing = (indices < 0) | (indices >= operand.shape[axis])
    if missing.any():
      target[(slice(None),) * at + (missing,)] = node.params['fill_value']

  return [take, fill] if node.params['mode'].name == 'FILL_OR_DROP' else [take]


def _axis(node: nodes.Node, shape: Sequence[int]) -> int | None:
  """The axis that is indexed, if it is one, entry by entry."""
  numbers = node.params['dimension_numbers']
  axes = tuple(numbers.start_index_map)
  if len(axes) != 1 or axes != tuple(numbers.collapsed_slice_dims):
    return None
  (axis,) = axes
  sizes = (*shape[:axis], 1, *shape[axis + 1 :])
  return axis if tuple(node.params['slice_sizes']) == sizes else None


BUILDERS = {'gather': _gather}
