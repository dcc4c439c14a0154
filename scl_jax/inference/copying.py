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
"""Copies between arrays that lie otherwise, by whole cache lines.

NumPy follows one of the two arrays and strides through the other, a cache line
for each entry. In blocks (`kernels.transpose`) both are read and written by
whole lines.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import numpy as np

from scl_jax.inference import kernels
from scl_jax.inference import layout

Step = Callable[[], object]

_SMALL = 1 << 14  # entries; below, to plan costs more than it gains


class _Plan(NamedTuple):
  """Two outer axes, then the contiguous axes of source and of target."""

  sizes: tuple[int, int, int, int]
  source_steps: tuple[int, int, int, int]
  target_steps: tuple[int, int, int, int]


def copy(target: np.ndarray, source: np.ndarray) -> None:
  """As `np.copyto`.

  Args:
    target: Where to.
    source: Of that shape.
  """
  step(target, source)()


def step(target: np.ndarray, source: np.ndarray) -> Step:
  """The copy, planned.

  Args:
    target: Where to.
    source: Of that shape.

  Returns:
    A function that copies what is in `source` then.
  """
  plan = None
  if target.size >= _SMALL and target.dtype == source.dtype == np.float32:
    plan = _plan(target.shape, layout.entries(target), layout.entries(source))
  if plan is None:
    return functools.partial(np.copyto, target, source)
  transpose = kernels.compiled(kernels.transpose)
  return functools.partial(
    transpose, layout.flat(source), layout.flat(target), *plan
  )


@functools.lru_cache(maxsize=1024)
def _plan(
  shape: Sequence[int],
  target_steps: Sequence[int],
  source_steps: Sequence[int],
) -> _Plan | None:
  """How to transpose; `None` where nothing is, or too many axes are left."""
  axes = [
    axis
    for axis in zip(shape, source_steps, target_steps, strict=True)
    if axis[0] > 1
  ]
  axes.sort(key=lambda axis: -axis[2])
  merged: list[tuple[int, int, int]] = []
  for size, by_source, by_target in axes:
    if merged and merged[-1][1:] == (size * by_source, size * by_target):
      size *= merged.pop()[0]
    merged.append((size, by_source, by_target))
  rows = [axis for axis in merged if axis[1] == 1]
  columns = [axis for axis in merged if axis[2] == 1]
  outer = [axis for axis in merged if 1 not in axis[1:]]
  if (
    len(rows) != 1
    or len(columns) != 1
    or rows == columns
    or len(outer) > 2
    or any(axis[1] <= 0 for axis in merged)
  ):
    return None
  outer = [(1, 0, 0)] * (2 - len(outer)) + outer
  sizes, by_source, by_target = zip(*outer, *rows, *columns, strict=True)
  return _Plan(sizes, by_source, by_target)
