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
"""Tests of wide.py."""

import itertools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import wide

pytestmark = pytest.mark.usefixtures('strict')

_WORDS = st.one_of(
  st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1])
)
_PLUS, _MINUS, _AT_MOST = map(jax.jit, (wide.plus, wide.minus, wide.at_most))


@hypothesis.given(_WORDS, _WORDS)
def test_products_against_python(a, b):
  product = jax.jit(wide.times)(np.uint32(a), np.uint32(b))
  assert wide.to_int(product) == a * b


@hypothesis.given(*[st.integers(0, 2**63 - 1)] * 2)
def test_sums_and_order_against_python(a, b):
  x, y = wide.from_int(a), wide.from_int(b)
  assert wide.to_int(_PLUS(x, y)) == a + b
  assert wide.to_int(_MINUS(x, y)) == max(a - b, 0)
  assert bool(_AT_MOST(x, y)) == (a <= b)
  assert bool(_AT_MOST(x, x))


@hypothesis.given(st.lists(st.integers(0, 2**60), min_size=1, max_size=9))
def test_sums_of_vectors_against_python(numbers):
  values = wide.Wide(
    jnp.array([n >> 32 for n in numbers], jnp.uint32),
    jnp.array([n & 0xFFFFFFFF for n in numbers], jnp.uint32),
  )
  assert wide.to_int(wide.total(values)) == sum(numbers)
  sums = zip(*wide.running_totals(values), strict=True)
  found = [wide.to_int(wide.Wide(*pair)) for pair in sums]
  assert found == list(itertools.accumulate(numbers))


def test_the_longest_vector():
  """Of the largest digits."""
  most = jnp.full(2**16, 2**32 - 1, jnp.uint32)
  found = wide.total(wide.Wide(jnp.zeros_like(most), most))
  assert wide.to_int(found) == 2**16 * (2**32 - 1)


@pytest.mark.parametrize('value', [0.0, 3.7, 2.0**31, 1.5 * 2.0**40])
def test_from_float(value):
  assert wide.to_int(wide.from_float(jnp.float32(value))) == int(value)


@hypothesis.given(st.integers(0, 2**63 - 1))
def test_to_float(value):
  found = float(wide.to_float(wide.from_int(value)))
  np.testing.assert_allclose(found, value, rtol=2.0**-23)


def test_from_array():
  for value in (0, 5, 2**31 - 1):
    assert wide.to_int(wide.from_array(jnp.int32(value))) == value
  assert wide.to_int(wide.from_array(-3)) == 0
  number = wide.from_int(2**40)
  assert wide.from_array(number) is number


@pytest.mark.parametrize('value', [-1, 2**64])
def test_out_of_range(value):
  with pytest.raises(OverflowError, match='not in'):
    wide.from_int(value)
