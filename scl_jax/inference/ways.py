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
"""Ways to run a product: dense with BLAS, CSR, offset-CSR."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import numpy as np

from scl_jax.inference import fusing
from scl_jax.inference import kernels
from scl_jax.inference import layout
from scl_jax.inference import products

Step = products.Step
Connections = tuple[np.ndarray, np.ndarray, np.ndarray]

_SUMS = 2048  # entries that offset-CSR sums up at once: they stay in L1
_PARTS = (256, 64)  # of a longer run; the first where it is one
_CACHED = 1 << 18  # bytes of a buffer that is in a cache anyway
_COLUMNS = 1 << 20  # entries of the windows that are gathered at once


class Task(NamedTuple):
  """A product and what is done to its result.

  Attributes:
    product: The product.
    weights: [features, entries of a group], the scale in them.
    epilogue: What follows.
    out: The result as [features, rows, run].
    other: What is added to it, in the same form; `None` for nothing.
  """

  product: products.Product
  weights: np.ndarray
  epilogue: fusing.Epilogue
  out: np.ndarray
  other: np.ndarray | None

  @property
  def shifts(self) -> np.ndarray:
    """[features]."""
    return self.epilogue.shift.astype(np.float32)


def task(
  product: products.Product,
  epilogue: fusing.Epilogue,
  out: np.ndarray,
  other: np.ndarray | None,
) -> Task:
  """Folds the scale into the weights.

  Args:
    product: The product.
    epilogue: What follows it.
    out: Where the result goes, as [features, rows, run].
    other: What is added, likewise.

  Returns:
    The `Task`.
  """
  groups, features, depth = product.weights.shape
  weights = product.weights.reshape(groups * features, depth)
  scaled = (weights * epilogue.scale[:, None]).astype(np.float32)
  return Task(product, scaled, epilogue, out, other)


def ways(work: Task) -> dict[str, list[Step]]:
  """All ways to do it, dense first.

  Args:
    work: The task.

  Returns:
    The steps of each way.
  """
  found = {'dense': dense(work)}
  if 0 in work.product.grid or not work.weights.size:
    return found
  is_vector = work.out[0].size == 1 and work.out.flags.c_contiguous
  if is_vector and work.other is None:
    found['csr'] = csr(work)
  else:
    connections, product = _connections(work), work.product
    found['offset-csr'] = offset_csr(work, connections)
    if product.grid[2] > _PARTS[-1] and product.source.nbytes > _CACHED:
      found['offset-csr in parts'] = offset_csr(
        work, connections, in_parts=True
      )
  return found


def dense(work: Task) -> list[Step]:
  """With BLAS; windows that do not lie as a matrix are gathered before."""
  product = work.product
  features, rows, run = product.grid
  groups, depth = product.offsets.shape
  weights = work.weights.reshape(groups, features // groups, depth)
  shift = work.shifts[:, None, None]
  matrix = _as_matrix(product)
  tile = max(1, rows)
  if matrix is None:
    tile = max(1, min(rows, _COLUMNS // max(1, depth * run)))
  # Tiles share this memory.
  windows, sums = (
    np.empty(count * tile * run, np.float32)
    for count in (0 if matrix is not None else groups * depth, features)
  )

  steps: list[Step] = []
  for first in range(0, rows, tile):
    count = min(tile, rows - first)
    size = count * run
    columns = matrix
    if columns is None:
      columns = windows[: groups * depth * size].reshape(groups, depth, size)
      source = product.source[first * product.pitch :]
      grid = (count, run, product.pitch)
      for offsets, target in zip(product.offsets, columns, strict=True):
        gather = kernels.compiled(kernels.gather)
        steps.append(functools.partial(gather, source, offsets, grid, target))
    out = work.out[:, first : first + count]
    result = out if out.flags.c_contiguous else sums[: features * size]
    target = result.reshape(groups, features // groups, size)
    result = result.reshape(features, count, run)
    steps.append(functools.partial(np.matmul, weights, columns, out=target))
    steps.append(functools.partial(np.add, result, shift, out=out))
    if work.other is not None:
      other = work.other[:, first : first + count]
      steps.append(functools.partial(np.add, out, other, out=out))
    if work.epilogue.floor == 0:
      zero = np.float32(0)
      steps.append(functools.partial(np.maximum, out, zero, out=out))
  return steps


def _as_matrix(product: products.Product) -> np.ndarray | None:
  """[groups, depth, rows * run], if the operand lies like that already."""
  _, rows, run = product.grid
  size = rows * run
  if rows > 1 and product.pitch != run:
    return None
  offsets = product.offsets.reshape(-1)
  if not np.array_equal(offsets, offsets[:1] + np.arange(offsets.size) * size):
    return None
  start = int(offsets[0]) if offsets.size else 0
  entries = product.source[start : start + offsets.size * size]
  return entries.reshape(*product.offsets.shape, size)


def offset_csr(
  work: Task, connections: Connections, *, in_parts: bool = False
) -> list[Step]:
  """Feature by feature, without windows; see `vectors.offset_csr`.

  Args:
    work: The task.
    connections: Its `_connections`.
    in_parts: Whether all features are done for a part of a row before the next,
      so that what they read of a large buffer stays in a cache meanwhile.

  Returns:
    The steps.
  """
  from scl_jax.inference.vectors import offset_csr as kernel

  product = work.product
  _, rows, run = product.grid
  pitch = product.pitch
  tile, part = max(1, min(rows, 1 + (_SUMS - run) // max(1, pitch))), run
  if in_parts:
    count = -(-run // next(size for size in _PARTS if size < run))
    tile, part = 1, -(-run // count)
  other, other_steps = np.zeros(run, np.float32), (0, 0)
  if work.other is not None:
    other = layout.flat(work.other)
    other_steps = layout.entries(work.other)[:2]
  step = functools.partial(
    kernel.offset_csr,
    product.source,
    *connections,
    work.shifts,
    (rows, run, pitch, tile, part),
    layout.flat(work.out),
    layout.entries(work.out)[:2],
    other,
    other_steps,
    np.float32(work.epilogue.floor),
    np.empty((tile - 1) * pitch + run, np.float32),
  )
  return [step]


def csr(work: Task) -> list[Step]:
  """Feature by feature, for a batch of 1."""
  step = functools.partial(
    kernels.compiled(kernels.csr),
    work.product.source,
    *_connections(work),
    work.shifts,
    np.float32(work.epilogue.floor),
    work.out.reshape(-1),
  )
  return [step]


def _connections(work: Task) -> Connections:
  """Starts of the features, offsets and values of the weights that are not 0.

  The offsets of a feature rise, so that its runs are read in order.
  """
  groups = len(work.product.offsets)
  every = np.repeat(work.product.offsets, len(work.weights) // groups, axis=0)
  features, entries = np.nonzero(work.weights)
  offsets = every[features, entries]
  order = np.lexsort((offsets, features))
  starts = np.searchsorted(features, np.arange(len(work.weights) + 1))
  is_small = work.product.source.size <= np.iinfo(np.uint32).max
  return (
    starts,
    offsets[order].astype(np.uint32 if is_small else np.int64),
    work.weights[features, entries][order],
  )


def run(steps: Sequence[Step]) -> None:
  """Runs steps in order."""
  for step in steps:
    step()
