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
"""Tests of scale_polarization.py: what the paper claims, brute force."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import scale_polarization

pytestmark = pytest.mark.usefixtures('strict')


def test_is_the_published_equation():
  rng = np.random.default_rng(0)
  scales = {'a': rng.random(5), 'b': None, 'c': rng.random((2, 3))}
  values = np.concatenate([scales['a'], scales['c'].ravel()])
  expected = 1.2 * np.abs(values).sum() - np.abs(values - values.mean()).sum()
  found = jax.jit(scale_polarization.polarization)(scales, 1.2)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize('t', [-1.0, 0.0, 1.0, 1.6])
def test_the_share_that_it_keeps(t):
  """Among all numbers of ones the least value is at 1/2 - t/4 of them."""
  count = 40
  rows = jnp.asarray(np.tri(count + 1, count, -1), jnp.float32)
  values = jax.vmap(lambda s: scale_polarization.polarization(s, t))(rows)
  assert int(jnp.argmin(values)) == round(count * (0.5 - t / 4))


def test_descent_polarises():
  """From around 0.5, kept in [0, 1], all scales end at 0 or 1."""
  scales = 0.5 + 0.02 * jax.random.normal(jax.random.key(0), (60,))
  gradient = jax.grad(scale_polarization.polarization)

  def step(scales, _):
    return jnp.clip(scales - 0.002 * gradient(scales, 0.0), 0, 1), None

  scales, _ = jax.lax.scan(step, scales, None, length=1000)
  assert np.isin(scales, (0, 1)).all()
  assert 0 < scales.mean() < 1


def test_threshold_is_the_first_local_minimum():
  rng = np.random.default_rng(1)
  for _ in range(20):
    low = np.abs(rng.normal(0, 0.02, 200))
    high = np.clip(rng.normal(0.8, 0.1, 100), 0, 1)
    values = np.concatenate([low, high])
    found = scale_polarization.threshold({'a': low, 'b': None, 'c': high})
    counts = [
      np.sum((values * 100 >= b) & (values * 100 < b + 1)) for b in range(100)
    ]
    first = next(
      b
      for b in range(1, 99)
      if counts[b - 1] >= counts[b] and counts[b] <= counts[b + 1]
    )
    assert found == first / 100


def test_errors():
  with pytest.raises(ValueError, match='scales holds no scale'):
    scale_polarization.polarization({'a': None}, 1.0)
  with pytest.raises(ValueError, match='scales holds no scale'):
    scale_polarization.threshold({'a': jnp.zeros(0)})
  with pytest.raises(ValueError, match=r't must be in \[-2, 2\], got 3'):
    scale_polarization.polarization({'a': jnp.ones(2)}, 3)
  no_t: Any = None
  with pytest.raises(ValueError, match=r't must be in \[-2, 2\], got None'):
    scale_polarization.polarization({'a': jnp.ones(2)}, no_t)
  for bad in ([0.5, 1.5], [-0.1, 0.5], [0.5, float('nan')]):
    with pytest.raises(ValueError, match=r'scales must be in \[0, 1\]'):
      scale_polarization.threshold({'a': np.array(bad)})
  slope = np.repeat((np.arange(100) + 0.5) / 100, np.arange(100))
  with pytest.raises(ValueError, match='no local minimum'):
    scale_polarization.threshold({'a': slope})
