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
"""The kernels of sparse inference, and the clock that chooses among them."""

import sys

import numpy as np
import pytest

from scl_jax.inference import kernels
from scl_jax.inference import timing

pytest.importorskip('numba')


@pytest.mark.parametrize('tile', [1, 2, 5])
def test_offset_csr_by_hand(tile):
  """As Python, against sums of windows; features have 0 to 7 weights."""
  rng = np.random.default_rng(0)
  rows, run, pitch = 5, 4, 6
  source = rng.normal(size=60)
  counts = np.arange(8)
  starts = np.concatenate([[0], np.cumsum(counts)])
  offsets, values = rng.integers(0, 24, 28), rng.normal(size=28)
  shifts, other = rng.normal(size=8), rng.normal(size=(8, rows, run))
  out = np.zeros((8, rows, run + 1))
  kernels.offset_csr(
    source, starts, offsets, values, shifts, (rows, run, pitch, tile),
    out.reshape(-1), (rows * (run + 1), run + 1), other.reshape(-1),
    (rows * run, run), 0.0, np.empty((tile - 1) * pitch + run),
  )  # fmt: skip
  expected = np.zeros((8, rows, run))
  for feature, row, n in np.ndindex(expected.shape):
    own = slice(starts[feature], starts[feature + 1])
    total = values[own] @ source[offsets[own] + row * pitch + n]
    total += shifts[feature] + other[feature, row, n]
    expected[feature, row, n] = max(total, 0)
  np.testing.assert_allclose(out[..., :run], expected, atol=1e-12)
  np.testing.assert_array_equal(out[..., run], 0)


def test_numba_is_an_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'numba', None)
  with pytest.raises(ImportError, match=r"pip install 'scl_jax\[inference\]'"):
    kernels.compiled(lambda: None)


def test_medians_of_ways():
  calls = []
  slow, fast = timing.medians(
    [lambda: sum(range(100_000)), lambda: calls.append(0)], seconds=0.01
  )
  assert slow > fast > 0
  assert len(calls) >= 5
