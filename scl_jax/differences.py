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
"""How far the outputs of two ways to compute the same are apart."""

import numpy as np


def largest(output: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
  """The largest difference of two arrays, and what to measure it by.

  Args:
    output: An array of numbers.
    expected: What it should be.

  Returns:
    The largest absolute difference, and the largest finite absolute value that
    is expected, 0 of none. The difference is infinite where shapes differ, or
    where either is not finite and they are not the same NaN or infinity.

  Example:
    >>> largest(np.array([1.0, np.inf]), np.array([4.0, np.inf]))
    (3.0, 4.0)
  """
  got, wanted = (
    np.asarray(x, np.promote_types(x.dtype, np.float64))
    for x in (output, expected)
  )
  finite = np.isfinite(wanted)
  size = float(np.abs(wanted[finite]).max(initial=0))
  if (
    got.shape != wanted.shape
    or not np.array_equal(finite, np.isfinite(got))
    or not np.array_equal(got[~finite], wanted[~finite], equal_nan=True)
  ):
    return np.inf, size
  return float(np.abs(got[finite] - wanted[finite]).max(initial=0)), size
