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
"""Copies between arrays that lie otherwise, by blocks.

NumPy follows one of the two arrays and strides through the other, a cache line
for each entry. In blocks (`vectors.transposition`) both are read and written by
whole lines.
"""

from collections.abc import Callable, Iterator
import functools
from typing import NamedTuple

import numpy as np

from scl_jax.inference import layout

Step = Callable[[], object]
Axis = tuple[int, int, int]  # entries, steps in source and in target

_SMALL = 1 << 14  # entries; below, to plan costs more than it gains


class _Plan(NamedTuple):
  """`transposition.transpose` and its arguments after the arrays."""

  transpose: Callable[..., None]
  rows: np.ndarray
  columns: np.ndarray
  outer: tuple[Axis, Axis]
  lanes: int

  def run(self, source: np.ndarray, target: np.ndarray) -> None:
    """Copies from one flat array to another."""
    transpose, *arguments = self
    transpose(source, target, *arguments)


def into(target: np.ndarray) -> Callable[[np.ndarray], None]:
  """Copies of arrays that may lie in several ways, each planned once.

  Args:
    target: Where to.

  Returns:
    A function that copies an array of that shape.
  """
  to = layout.flat(target)
  plans: dict[tuple[np.dtype, tuple[int, ...]], _Plan | None] = {}

  def copy(source: np.ndarray) -> None:
    key = (source.dtype, source.strides)
    if key not in plans:
      plans[key] = _plan(target, source)
    plan = plans[key]
    if plan is None:
      np.copyto(target, source)
    else:
      plan.run(layout.flat(source), to)

  return copy


def out_of(source: np.ndarray) -> Callable[[np.ndarray], None]:
  """Copies to contiguous arrays, planned once.

  Args:
    source: What is copied.

  Returns:
    A function that copies what is in `source` then to a contiguous array of its
    shape and dtype.
  """
  plan = _plan(np.empty(source.shape, source.dtype), source)
  if plan is None:
    return lambda target: np.copyto(target, source)
  flat = layout.flat(source)
  return lambda target: plan.run(flat, target.reshape(-1))


def step(target: np.ndarray, source: np.ndarray) -> Step:
  """The copy, planned.

  Args:
    target: Where to.
    source: Of that shape.

  Returns:
    A function that copies what is in `source` then.
  """
  plan = _plan(target, source)
  if plan is None:
    return functools.partial(np.copyto, target, source)
  return functools.partial(plan.run, layout.flat(source), layout.flat(target))


def _plan(target: np.ndarray, source: np.ndarray) -> _Plan | None:
  """How to transpose; `None` where nothing is, or NumPy does as well."""
  if (
    target.size < _SMALL
    or not target.dtype == source.dtype == np.float32
    or any(stride % source.itemsize for stride in source.strides)
  ):
    return None
  from scl_jax.inference.vectors import transposition
  from scl_jax.inference.vectors import writer

  axes = [
    axis
    for axis in zip(
      target.shape,
      layout.entries(source),
      layout.entries(target),
      strict=True,
    )
    if axis[0] > 1
  ]
  if any(axis[1] <= 0 for axis in axes):
    return None
  # Two runs of axes, one contiguous in the source and one in the target: the
  # shorter takes the next axis that continues it.
  runs: tuple[list[Axis], list[Axis]] = ([], [])
  sizes = [1, 1]
  while True:
    for side in np.argsort(sizes, stable=True):
      found = [axis for axis in axes if axis[1 + side] == sizes[side]]
      if found:
        runs[side].append(found[0])
        axes.remove(found[0])
        sizes[side] *= found[0][0]
        break
    else:
      break
  lanes = [n for n in (4, 8, 16) if n <= min(*sizes, writer.LANES)]
  if not lanes or len(axes) > 2:
    return None
  axes = [(1, 0, 0)] * (2 - len(axes)) + axes
  rows, columns = (
    _offsets((n, step) for n, _, step in runs[0]),
    _offsets((n, step) for n, step, _ in runs[1]),
  )
  return _Plan(
    transposition.transpose, rows, columns, (axes[0], axes[1]), lanes[-1]
  )


def _offsets(axes: Iterator[tuple[int, int]]) -> np.ndarray:
  """Where each entry of a run lies, the first axis fastest."""
  offsets = np.zeros(1, np.int64)
  for size, step in axes:
    offsets = (np.arange(size)[:, None] * step + offsets).reshape(-1)
  return offsets
