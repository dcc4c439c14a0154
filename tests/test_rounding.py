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
"""Rounding at random against the neighbours that ml_dtypes names."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from scl_jax import rounding

BFLOAT16 = ml_dtypes.bfloat16


def neighbours(x):
  """The bfloat16 numbers on both sides of float32 numbers, as float64."""
  nearest = x.astype(BFLOAT16)
  step = lambda towards: np.nextafter(nearest, BFLOAT16(towards))
  exact = nearest.astype(np.float64) == x
  below = np.where(nearest.astype(np.float64) > x, step(-np.inf), nearest)
  above = np.where(nearest.astype(np.float64) < x, step(np.inf), nearest)
  return below.astype(np.float64), above.astype(np.float64), exact


def test_each_neighbour_as_often_as_its_distance_says():
  rng = np.random.default_rng(0)
  x = (rng.normal(size=50) * 10.0 ** rng.integers(-6, 6, 50)).astype(np.float32)
  below, above, _ = neighbours(x)
  draws = 20_000
  rounded = rounding.round_stochastically(
    jnp.broadcast_to(x, (draws, 50)), jax.random.key(3)
  )
  assert rounded.dtype == jnp.bfloat16
  rounded = np.asarray(rounded).astype(np.float64)
  assert ((rounded == below) | (rounded == above)).all()
  share = (rounded == above).mean(0)
  expected = (x - below) / (above - below)
  # Five standard deviations of a share of that many draws.
  np.testing.assert_allclose(share, expected, atol=2.5 / np.sqrt(draws))


def test_what_bfloat16_has_stays():
  x = np.array([0, -0.0, 1, -2.5, 1e30, np.inf, -np.inf, np.nan], BFLOAT16)
  for seed in range(8):
    rounded = rounding.round_stochastically(
      jnp.asarray(x, jnp.float32), jax.random.key(seed)
    )
    np.testing.assert_array_equal(
      np.asarray(rounded, np.float32), np.float32(x)
    )


def test_leaves_have_their_own_randomness():
  x = jnp.full(1000, 1 + 2.0**-8)
  rounded = rounding.round_stochastically(
    {'a': x, 'b': x, 'c': None}, jax.random.key(0)
  )
  assert rounded['c'] is None
  agreement = np.mean(np.asarray(rounded['a'] == rounded['b']))
  assert 0.4 < agreement < 0.6
