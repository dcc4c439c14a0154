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
"""The loops that NumPy does not have, as plain Python that numba compiles."""

from collections.abc import Callable
import functools
import math
from typing import Any

import numpy as np

NEEDS_NUMBA = "scl_jax.inference needs numba: pip install 'scl_jax[inference]'."


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
    raise ImportError(NEEDS_NUMBA) from error
  return numba


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
    grid: (rows, run, pitch): the output's rows, their length, and how far they
      are apart in `source`.
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
