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
"""Primitives that move entries, as views of NumPy or copies."""

from collections.abc import Sequence
import functools

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import copying
from scl_jax.inference import errors
from scl_jax.inference import layout
from scl_jax.inference import products
from scl_jax.inference import trimming

Step = products.Step
Operands = Sequence[np.ndarray]


def view(node: nodes.Node, operand: np.ndarray) -> np.ndarray | None:
  """What a primitive that only rearranges makes of an array.

  Args:
    node: The node.
    operand: Its first operand.

  Returns:
    A view; `None` if the primitive is no such, or needs a copy.
  """
  params = node.params
  if node.name == 'broadcast_in_dim':
    return trimming.broadcast(operand, params)
  if node.name in ('reshape', 'squeeze', 'expand_dims'):
    if params.get('dimensions') is not None and node.name == 'reshape':
      return None
    return layout.as_view(operand, _new_shape(node, operand))
  if node.name == 'transpose':
    return operand.transpose(params['permutation'])
  if node.name == 'slice':
    steps = params['strides'] or (1,) * operand.ndim
    bounds = zip(
      params['start_indices'], params['limit_indices'], steps, strict=True
    )
    return operand[(*(slice(*bound) for bound in bounds), ...)]
  if node.name == 'rev':
    return np.flip(operand, params['dimensions'])
  if (
    node.name == 'convert_element_type' and operand.dtype == params['new_dtype']
  ):
    return operand
  return None


def parts(node: nodes.Node, operand: np.ndarray) -> list[np.ndarray] | None:
  """What a primitive that divides an array makes of it.

  Args:
    node: The node.
    operand: Its first operand.

  Returns:
    Views, one for each result; `None` if the primitive is no such.
  """
  params = node.params
  if node.name == 'split':
    return np.split(operand, np.cumsum(params['sizes'])[:-1], params['axis'])
  if node.name == 'unstack':
    return list(np.moveaxis(operand, params['axis'], 0))
  return None


def _new_shape(node: nodes.Node, operand: np.ndarray) -> tuple[int, ...]:
  if node.name == 'reshape':
    return tuple(node.params['new_sizes'])
  shape = list(operand.shape)
  if node.name == 'squeeze':
    gone = node.params['dimensions']
    return tuple(n for axis, n in enumerate(shape) if axis not in gone)
  for axis in sorted(node.params['dimensions']):
    shape.insert(axis, 1)
  return tuple(shape)


def _convert(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  del node
  (operand,) = operands
  is_float = jnp.issubdtype(operand.dtype, jnp.floating)
  if is_float and np.issubdtype(out.dtype, np.integer):
    return [functools.partial(_to_integers, operand, out)]
  return [functools.partial(np.copyto, out, operand, casting='unsafe')]


def _to_integers(operand: np.ndarray, out: np.ndarray) -> None:
  """As XLA does: out of range the nearest integer, for NaN 0."""
  low, high = np.iinfo(out.dtype).min, np.iinfo(out.dtype).max
  is_low, is_high = operand <= low, operand >= high
  out[...] = 0
  out[is_low], out[is_high] = low, high
  inside = (operand > low) & ~is_high
  np.copyto(out, operand, where=inside, casting='unsafe')


def _reshape(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  (operand,) = operands
  if node.params.get('dimensions') is not None:
    raise errors.unsupported(node, ' with dimensions')
  target = layout.as_view(out, operand.shape)
  if target is not None:
    return [copying.step(target, operand)]
  return [lambda: np.copyto(out, operand.reshape(out.shape))]


def _concatenate(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  axis, start, found = node.params['dimension'], 0, []
  for operand in operands:
    stop = start + operand.shape[axis]
    index = (*[slice(None)] * axis, slice(start, stop))
    found.append(copying.step(out[index], operand))
    start = stop
  return found


def _pad(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  operand, value = operands
  target, origin = [], []
  for n, (low, high, interior) in zip(
    operand.shape, node.params['padding_config'], strict=True
  ):
    # Entry i goes to low + i * step; what is cut off are whole entries.
    step = interior + 1
    size = low + high + n + max(n - 1, 0) * interior
    first = max(0, -(low // step))
    stop = max(first, min(n, -(-(size - low) // step)))
    target.append(slice(low + first * step, low + stop * step - interior, step))
    origin.append(slice(first, stop))
  return [
    functools.partial(np.copyto, out, value),
    copying.step(out[(*target, ...)], operand[(*origin, ...)]),
  ]


def _stack(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  before = [slice(None)] * node.params['axis']
  return [
    copying.step(out[(*before, index, ...)], operand)
    for index, operand in enumerate(operands)
  ]


def _tile(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  (operand,), reps = operands, node.params['reps']
  return [lambda: np.copyto(out, np.tile(operand, reps))]


def _select(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  del node
  which, first, *others = operands
  found: list[Step] = [functools.partial(np.copyto, out, first)]
  for index, other in enumerate(others, start=1):
    found.append(
      lambda index=index, other=other: np.copyto(
        out, other, where=which == index
      )
    )
  return found


BUILDERS = {
  'concatenate': _concatenate,
  'convert_element_type': _convert,
  'pad': _pad,
  'reshape': _reshape,
  'select_n': _select,
  'stack': _stack,
  'tile': _tile,
}
