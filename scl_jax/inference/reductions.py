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
"""Reductions, pooling and cumulative sums in NumPy."""

from collections.abc import Mapping, Sequence
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import errors
from scl_jax.inference import layout
from scl_jax.inference import products

Step = products.Step
Operands = Sequence[np.ndarray]

# A reduction over so few entries may be a chain of whole arrays, and is if its
# result is that large.
_FEW = 16
_LARGE = 8192


def _reduce(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  """A reduction; where NumPy's own is slow, a chain of whole arrays."""
  (operand,) = operands
  ufunc, axes = _REDUCERS[node.name], tuple(node.params['axes'])
  sizes = [n if axis in axes else 1 for axis, n in enumerate(operand.shape)]
  if not 0 < math.prod(sizes) <= _FEW or (
    out.size < _LARGE and _are_adjacent(operand, sizes)
  ):
    return [functools.partial(ufunc.reduce, operand, axis=axes, out=out)]
  parts = []
  for index in np.ndindex(*sizes):
    whole = (i if axis in axes else slice(None) for axis, i in enumerate(index))
    parts.append(operand[(*whole, ...)])
  return _combine(ufunc, parts, out)


def _are_adjacent(operand: np.ndarray, sizes: Sequence[int]) -> bool:
  """Whether no other axis lies between those that are reduced, in memory."""
  order = [axis for axis in layout.order_of(operand) if operand.shape[axis] > 1]
  places = [place for place, axis in enumerate(order) if sizes[axis] > 1]
  return not places or places[-1] - places[0] == len(places) - 1


def _combine(
  ufunc: np.ufunc, parts: Sequence[np.ndarray], out: np.ndarray
) -> list[Step]:
  if len(parts) == 1:
    return [functools.partial(np.copyto, out, parts[0])]
  found = [functools.partial(ufunc, parts[0], parts[1], out=out)]
  found += [functools.partial(ufunc, out, part, out=out) for part in parts[2:]]
  return found


def _reduce_window(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  (operand,), params = operands, node.params
  if any(n != 1 for n in params['base_dilation']):
    raise errors.unsupported(node, ' with a dilated operand')
  ufunc = _REDUCERS[node.name.replace('_window', '')]
  found: list[Step] = []
  if any(any(padding) for padding in params['padding']):
    if any(n < 0 for padding in params['padding'] for n in padding):
      raise errors.unsupported(node, ' with a negative padding')
    padded = layout.allocate(
      operand.shape,
      operand.dtype,
      layout.order_of(operand),
      params['padding'],
    )
    # The margins keep it.
    padded.frame[...] = _neutral(node, operand.dtype)
    found.append(functools.partial(np.copyto, padded.array, operand))
    operand = padded.frame
  parts = []
  for window in np.ndindex(*params['window_dimensions']):
    index = []
    for i, dilation, stride, n in zip(
      window,
      params['window_dilation'],
      params['window_strides'],
      out.shape,
      strict=True,
    ):
      start = i * dilation
      index.append(slice(start, start + stride * (n - 1) + 1, stride))
    parts.append(operand[(*index, ...)])
  return found + _combine(ufunc, parts, out)


def _neutral(node: nodes.Node, dtype: np.dtype) -> Any:
  """What leaves other entries of a window as they are."""
  if node.name == 'reduce_window_sum':
    return 0
  is_max = node.name == 'reduce_window_max'
  if jnp.issubdtype(dtype, np.floating):
    return -np.inf if is_max else np.inf
  if dtype == np.bool_:
    return not is_max
  limits = np.iinfo(dtype)
  return limits.min if is_max else limits.max


def _arg(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  find = {'argmax': np.argmax, 'argmin': np.argmin}[node.name]
  (axis,) = node.params['axes']
  return [lambda: np.copyto(out, find(operands[0], axis), casting='unsafe')]


def _cumulative(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  ufunc, axis = _CUMULATIVE[node.name], node.params['axis']
  source, target = operands[0], out
  if node.params['reverse']:
    source, target = np.flip(source, axis), np.flip(out, axis)
  return [functools.partial(ufunc.accumulate, source, axis=axis, out=target)]


_REDUCERS: Mapping[str, np.ufunc] = {
  'reduce_and': np.bitwise_and,
  'reduce_max': np.maximum,
  'reduce_min': np.minimum,
  'reduce_or': np.bitwise_or,
  'reduce_prod': np.multiply,
  'reduce_sum': np.add,
}


_CUMULATIVE: Mapping[str, np.ufunc] = {
  'cummax': np.maximum,
  'cummin': np.minimum,
  'cumprod': np.multiply,
  'cumsum': np.add,
}

BUILDERS = {
  **dict.fromkeys(_REDUCERS, _reduce),
  **dict.fromkeys(_CUMULATIVE, _cumulative),
  **dict.fromkeys(
    ('reduce_window_max', 'reduce_window_min', 'reduce_window_sum'),
    _reduce_window,
  ),
  'argmax': _arg,
  'argmin': _arg,
}
