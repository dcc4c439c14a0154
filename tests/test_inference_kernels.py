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

import hypothesis
from hypothesis import strategies as st
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import inference
from scl_jax.inference import copying
from scl_jax.inference import kernels
from scl_jax.inference import layout
from scl_jax.inference import timing

pytest.importorskip('numba')

from scl_jax.inference.vectors import offset_csr


# Shorter than a vector, and all the lengths of blocks with what is left over.
@pytest.mark.parametrize('run', [1, 4, 7, 8, 17, 40, 100, 139, 300, 551])
@pytest.mark.parametrize(
  ('tile', 'part'), [(1, 600), (2, 600), (5, 600), (1, 16), (1, 139), (1, 256)]
)
def test_offset_csr_by_hand(run, tile, part):
  """Against sums of windows; features have 0 to 7 weights."""
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  rows, pitch = 5, run + 2
  source = normal((rows + 3) * pitch)
  counts = np.arange(8)
  starts = np.concatenate([[0], np.cumsum(counts)])
  offsets, values = rng.integers(0, 3 * pitch, 28), normal(28)
  shifts, other = normal(8), normal(8, rows, run)
  out = np.zeros((8, rows, run + 1), np.float32)
  offset_csr.offset_csr(
    source, starts, offsets.astype(np.uint32), values, shifts,
    (rows, run, pitch, tile, min(part, run)),
    out.reshape(-1), (rows * (run + 1), run + 1),
    other.reshape(-1), (rows * run, run), np.float32(0),
    np.empty((tile - 1) * pitch + run, np.float32),
  )  # fmt: skip
  expected = np.zeros((8, rows, run))
  for feature, row, n in np.ndindex(expected.shape):
    own = slice(starts[feature], starts[feature + 1])
    total = values[own] @ source[offsets[own] + row * pitch + n]
    total += shifts[feature] + other[feature, row, n]
    expected[feature, row, n] = max(total, 0)
  np.testing.assert_allclose(out[..., :run], expected, atol=1e-5)
  np.testing.assert_array_equal(out[..., run], 0)


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(st.data())
def test_copy_is_copyto(data):
  """Whatever way both lie, with margins and with axes that broadcast."""
  shape = data.draw(
    st.lists(st.sampled_from([1, 2, 5, 9, 16, 33, 70]), min_size=2, max_size=4)
    .filter(lambda sizes: np.prod(sizes) < 2**19)
    .map(lambda sizes: (*sizes, max(1, 2**15 // np.prod(sizes))))
  )
  dtype = data.draw(st.sampled_from([np.float32, np.float32, np.int32]))

  def array():
    order = data.draw(st.permutations(range(len(shape))))
    margins = data.draw(
      st.lists(
        st.sampled_from([(0, 0), (1, 2)]),
        min_size=len(shape),
        max_size=len(shape),
      )
    )
    return layout.allocate(shape, dtype, order, tuple(margins))

  source, target = array().array, array()
  source[...] = np.random.default_rng(0).integers(0, 1000, shape)
  if data.draw(st.booleans()):
    source = np.broadcast_to(source[:, :1], shape)
  if data.draw(st.booleans()):
    source = source[::-1]
  for copy in (
    copying.step(target.array, source),
    lambda: copying.into(target.array)(source),
  ):
    target.array[...] = -1
    copy()
    np.testing.assert_array_equal(target.array, source)
  copied = np.full(shape, -1, dtype)
  copying.out_of(source)(copied)
  np.testing.assert_array_equal(copied, source)
  # The margins are zeros still.
  assert target.frame.sum(dtype=float) == source.sum(dtype=float)


def test_copies_of_parts_of_records_and_of_what_is_read_only():
  records = np.zeros((200, 100), [('a', np.float32), ('b', np.int8)])
  records['a'] = np.random.default_rng(0).normal(size=records.shape)
  contiguous = records['a'].copy()
  contiguous.flags.writeable = False
  for source in (records['a'], contiguous):
    target = np.zeros((100, 200), np.float32).T
    copying.into(target)(source)
    np.testing.assert_array_equal(target, records['a'])


def test_numba_is_an_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'numba', None)
  with pytest.raises(ImportError, match=r"pip install 'scl_jax\[inference\]'"):
    kernels.compiled(lambda: None)


def test_times_of_ways():
  calls = []
  slow, fast = timing.lower_quartiles(
    [lambda: sum(range(100_000)), lambda: calls.append(0)], seconds=0.01
  )
  assert slow > fast > 0
  assert len(calls) >= 5


@pytest.mark.parametrize('dtype', [np.int8, np.uint16, bool])
def test_windows_and_bits_of_integers(dtype):
  x = np.random.default_rng(0).integers(0, 100, (2, 5, 6)).astype(dtype)
  window = ((1, 3, 2), (1, 2, 1), 'SAME')

  def fn(params, x):
    del params
    big, small = (
      (True, False)
      if dtype is bool
      else map(dtype, (np.iinfo(dtype).max, np.iinfo(dtype).min))
    )
    return (
      lax.reduce_window(x, small, lax.max, *window),
      lax.reduce_window(x, big, lax.min, *window),
      lax.reduce_and(x, (1,)),
      lax.reduce_or(x, (2,)),
    )

  network = inference.compile(fn, {'unused': jnp.ones(1)}, None, x)
  for output, expected in zip(network(x), fn({}, x), strict=True):
    np.testing.assert_array_equal(output, expected)
    assert output.dtype == dtype
