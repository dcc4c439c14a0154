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
"""Where arrays lie in memory: features first, batch last, zeros around.

The graph's arrays keep the axes that the graph gives them; only their strides
say how they lie. So each primitive runs on any layout, and a product, which
does not, copies what lies otherwise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Margins = tuple[tuple[int, int], ...]

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Value(NamedTuple):
  """An array of the graph.

  Attributes:
    array: With the graph's axes.
    frame: The same with its margins of zeros, for the windows of a
      convolution; `array` itself if it has none.
    margins: Entries before and after, for each axis.
  """

  array: np.ndarray
  frame: np.ndarray
  margins: Margins


def bare(array: Any) -> Value:
  """An array without margins."""
  return Value(array, array, ((0, 0),) * array.ndim)


def allocate(
  shape: Sequence[int],
  dtype: Any,
  order: Sequence[int],
  margins: Margins | None = None,
) -> Value:
  """A new array of zeros.

  Args:
    shape: Its shape.
    dtype: Its dtype.
    order: Its axes, from the one with the largest stride to the contiguous one.
    margins: The zeros around it; `None` for none.

  Returns:
    The `Value`.
  """
  margins = margins or ((0, 0),) * len(shape)
  full = [n + sum(pad) for n, pad in zip(shape, margins, strict=True)]
  dtype = np.dtype(dtype)
  size = int(np.prod(full)) * dtype.itemsize
  memory = np.zeros(size + _ALIGNMENT, np.uint8)
  start = -memory.ctypes.data % _ALIGNMENT
  flat = memory[start : start + size].view(dtype)
  frame = flat.reshape([full[axis] for axis in order])
  frame = frame.transpose(np.argsort(order))
  inner = tuple(
    slice(before, before + n)
    for n, (before, _) in zip(shape, margins, strict=True)
  )
  return Value(frame[(*inner, ...)], frame, margins)


def order_of(array: np.ndarray) -> tuple[int, ...]:
  """The axes of an array, by falling stride; of equal ones the earlier first.

  Args:
    array: Any array; stretched axes and those of size 1 come where they are.

  Returns:
    The axes, as `allocate` takes them.
  """
  strides = [
    stride if n > 1 else 0
    for n, stride in zip(array.shape, array.strides, strict=True)
  ]
  return tuple(sorted(range(array.ndim), key=lambda axis: -strides[axis]))


def flat(array: np.ndarray) -> np.ndarray:
  """The memory from an array's first entry to its last, as one axis."""
  if array.flags.c_contiguous:
    return array.reshape(-1)  # without what the rest costs in a call
  low, high = np.lib.array_utils.byte_bounds(array)
  size = (high - low) // array.itemsize
  return np.lib.stride_tricks.as_strided(array, (size,), (array.itemsize,))


def entries(array: np.ndarray) -> tuple[int, ...]:
  """The strides of an array, in entries."""
  return tuple(stride // array.itemsize for stride in array.strides)


def is_contiguous(array: np.ndarray) -> bool:
  """Whether the array's entries lie one after another in their order."""
  return array.flags.c_contiguous


def as_view(array: np.ndarray, shape: Sequence[int]) -> np.ndarray | None:
  """The array in another shape, if that needs no copy."""
  try:
    return np.reshape(array, shape, copy=False)
  except ValueError:
    return None
