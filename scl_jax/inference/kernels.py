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
"""The loops that NumPy does not have, as plain Python that numba compiles.

*Offset-CSR.* Arrays lie features first and batch last, an image as [channels,
rows, columns, batch] with zeros around it. Then the connection of a
convolution from tap (i, j) of channel c is one number: how far the window's
start at (c, i, j) is from the buffer's. What it adds to an output row is its
value times a contiguous run of the buffer, for a dense layer as for a
convolution, and no window is ever gathered.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import numpy as np


@functools.cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
  """A kernel as machine code; kept on disk for later processes.

  Args:
    kernel: A function of this module.

  Returns:
    A function of the same arguments, that lets other threads run.

  Raises:
    ImportError: Without numba, which comes with `scl_jax[inference]`.
  """
  # Sums in any order, and fused multiply-adds; NaN and infinity stay.
  fastmath = {'contract', 'nsz', 'reassoc'}
  return _numba().njit(
    kernel, cache=True, error_model='numpy', fastmath=fastmath, nogil=True
  )


@functools.cache
def elementwise(kernel: Callable[[float], float]) -> np.ufunc:
  """A function of one number as a NumPy ufunc; kept on disk as well.

  Args:
    kernel: A function of this module.

  Returns:
    A ufunc for float32 and float64.

  Raises:
    ImportError: Without numba.
  """
  signatures = ['float32(float32)', 'float64(float64)']
  return _numba().vectorize(signatures, cache=True)(kernel)


def _numba() -> Any:
  try:
    import numba
  except ImportError as error:
    raise ImportError(
      "scl_jax.inference needs numba: pip install 'scl_jax[inference]'."
    ) from error
  return numba


def offset_csr(
  source, starts, offsets, values, shifts, grid, out, steps, other, other_steps,
  floor, scratch,
):  # fmt: skip
  """Writes max(sum of values * runs of source + shifts + other, floor).

  Works through tiles of whole rows, which are summed up in `scratch` with the
  gaps that lie between the rows of `source`, so that one run covers them all.
  Four connections at a time: each sum is loaded and stored once for four.

  Args:
    source: [entries], the flat buffer.
    starts: [features + 1], where a feature's connections start.
    offsets: [connections], where in `source` their runs start.
    values: [connections].
    shifts: [features], what is added to each feature.
    grid: (rows, run, pitch, tile): the output's rows, their length, how far
      they are apart in `source`, and how many are summed up at once.
    out: Flat, from the first entry on.
    steps: (feature step, row step) of `out`.
    other: A flat array to add; empty for none.
    other_steps: Those of `other`.
    floor: 0 for a ReLU, else -inf.
    scratch: [at least (tile - 1) * pitch + run].
  """
  rows, run, pitch, tile = grid
  for first in range(0, rows, tile):
    count = min(tile, rows - first)
    length = (count - 1) * pitch + run
    start = first * pitch
    sums = scratch[:length]
    for feature in range(shifts.size):
      shift = shifts[feature]
      for n in range(length):
        sums[n] = shift
      k, stop = starts[feature], starts[feature + 1]
      fours = stop - (stop - k) % 4
      while k < fours:
        a = source[offsets[k] + start :][:length]
        b = source[offsets[k + 1] + start :][:length]
        c = source[offsets[k + 2] + start :][:length]
        d = source[offsets[k + 3] + start :][:length]
        p, q = values[k], values[k + 1]
        r, s = values[k + 2], values[k + 3]
        for n in range(length):
          sums[n] += p * a[n] + q * b[n] + r * c[n] + s * d[n]
        k += 4
      while k < stop:
        a = source[offsets[k] + start :][:length]
        p = values[k]
        for n in range(length):
          sums[n] += p * a[n]
        k += 1
      for row in range(count):
        line = sums[row * pitch :][:run]
        if other.size:
          at = feature * other_steps[0] + (first + row) * other_steps[1]
          add = other[at:][:run]
          for n in range(run):
            line[n] += add[n]
        at = feature * steps[0] + (first + row) * steps[1]
        result = out[at:][:run]
        for n in range(run):
          result[n] = floor if line[n] < floor else line[n]


def csr(source, starts, offsets, values, shifts, floor, out):
  """Writes max(matrix @ source + shifts, floor), for a batch of 1.

  Args:
    source: [entries].
    starts: [features + 1], where a feature's connections start.
    offsets: [connections], which entries they come from; unsigned ones are
      faster, as they are not tested for being negative.
    values: [connections].
    shifts: [features].
    floor: 0 for a ReLU, else -inf.
    out: [features].
  """
  for feature in range(shifts.size):
    own = slice(starts[feature], starts[feature + 1])
    weights, indices = values[own], offsets[own]
    total = shifts[feature]
    for k in range(weights.size):
      total += weights[k] * source[indices[k]]
    out[feature] = floor if total < floor else total


def gather(source, offsets, grid, out):
  """The runs of some rows, for a dense product (im2col).

  Args:
    source: [entries], the flat buffer.
    offsets: [weights], where their runs start.
    grid: (rows, run, pitch), as in `offset_csr`.
    out: [weights, rows * run].
  """
  rows, run, pitch = grid
  for k in range(offsets.size):
    for row in range(rows):
      line = source[offsets[k] + row * pitch :][:run]
      out[k, row * run : (row + 1) * run] = line


def erf(x: float) -> float:
  """The error function."""
  return math.erf(x)


def erfc(x: float) -> float:
  """1 - erf(x), precise where that is small."""
  return math.erfc(x)
