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
"""Tests of mask_coding.py."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from scl_jax import mask_coding


def _bits(code):
  return ''.join(f'{byte:08b}' for byte in code)


def _encode(positions, k):
  """Golomb-Rice coding, a bit at a time, from the module's docstring."""
  gaps = [b - a - 1 for a, b in zip([-1, *positions], positions, strict=False)]
  unary = ''.join('0' * (g >> k) + '1' for g in gaps)
  low = ''.join(f'{g & ((1 << k) - 1):0{k}b}' if k else '' for g in gaps)
  parts = [bytes([k])]
  for bits in (unary, low):
    bits += '0' * (-len(bits) % 8)
    parts.append(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)))
  return b''.join(parts)


def _entropy_bytes(size, live):
  p = np.array([live / size, 1 - live / size])
  return -size * float(np.sum(p * np.log2(p, where=p > 0, out=0 * p))) / 8


positions = st.lists(st.integers(0, 3000), unique=True, max_size=200).map(
  sorted
)


@hypothesis.given(positions, st.integers(1, 1000))
@hypothesis.settings(max_examples=200)
def test_round_trip(places, beyond):
  places = np.array(places, int)
  size = int(places.max(initial=-1)) + beyond
  code = mask_coding.encode(places)
  assert code.dtype == np.uint8
  decoded = mask_coding.decode(code, size, places.size)
  np.testing.assert_array_equal(decoded, places)


@hypothesis.given(positions)
@hypothesis.settings(max_examples=200)
def test_is_the_shortest_of_its_kind(places):
  code = mask_coding.encode(np.array(places, int)).tobytes()
  assert code == _encode(places, code[0])
  lengths = [len(_encode(places, k)) for k in range(33)]
  # The bits of both parts are counted together, each is filled up alone.
  assert len(code) <= min(lengths) + 1


@pytest.mark.parametrize('scale', [2**20, 2**33, 2**36])
def test_few_connections_among_many(scale):
  places = np.array([3, 5, 7]) * scale
  code = mask_coding.encode(places)
  decoded = mask_coding.decode(code, 8 * scale, 3)
  np.testing.assert_array_equal(decoded, places)


def test_all_live_is_the_packed_mask():
  code = mask_coding.encode(np.arange(20))
  assert code.tobytes() == b'\0\xff\xff\xf0'


@pytest.mark.parametrize(
  'density', [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5]
)
def test_random_masks_are_within_4_percent_of_the_entropy(density):
  live = np.random.default_rng(0).random(1_000_000) < density
  code = mask_coding.encode(np.flatnonzero(live))
  assert code.size <= 1.04 * _entropy_bytes(live.size, live.sum())


@hypothesis.given(
  st.binary(max_size=40), st.integers(0, 50), st.integers(0, 99)
)
@hypothesis.settings(max_examples=500)
def test_anything_else_is_a_value_error(code, size, live):
  code = np.frombuffer(code, np.uint8)
  try:
    places = mask_coding.decode(code, size, live)
  except ValueError:
    return
  assert places.shape == (live,)
  assert np.all(np.diff(places) > 0)
  assert np.all((places >= 0) & (places < size))


@pytest.mark.parametrize(
  ('code', 'size', 'live'),
  [
    ([], 8, 0),  # no parameter
    ([33], 8, 0),  # a parameter beyond 32
    ([0, 0b1100_0000], 8, 3),  # too few
    ([0, 0b1100_0000], 8, 1),  # too many
    ([0, 0b1100_0000, 0], 8, 2),  # padded by a byte
    ([0, 0b0000_0001], 7, 1),  # beyond the end, by its quotient
    ([4, 0b1000_0000, 0b1111_0000], 15, 1),  # by its low bits
    ([4, 0b1000_0000], 15, 1),  # without low bits
  ],
)
def test_broken_codes(code, size, live):
  with pytest.raises(ValueError, match='place'):
    mask_coding.decode(np.array(code, np.uint8), size, live)


def test_a_short_code_of_a_far_place_does_not_wrap_around():
  gaps = np.full(64, 2**32 - 1)
  code = bytes([32]) + b'\xff' * 8 + b'\xff' * (4 * gaps.size)
  with pytest.raises(ValueError, match='beyond'):
    mask_coding.decode(np.frombuffer(code, np.uint8), 1000, 64)
  places = mask_coding.decode(np.frombuffer(code, np.uint8), 2**40, 64)
  np.testing.assert_array_equal(places, np.cumsum(gaps + 1) - 1)
