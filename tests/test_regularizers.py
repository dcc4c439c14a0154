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
"""Tests of regularizers.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import masks as masks_lib
from scl_jax import regularizers
from scl_jax import ste
from scl_jax.macs import costs

pytestmark = pytest.mark.usefixtures('strict')


def _mask_params():
  rng = np.random.default_rng(0)
  return {
    'a': rng.normal(size=(4, 3)).astype(np.float32),
    'b': None,
    'c': [rng.normal(size=(5,)).astype(np.float32)],
  }


def test_counts_what_is_open():
  m = _mask_params()
  expected = float(sum(np.sum(x > 0) for x in jax.tree.leaves(m)))
  count = jax.jit(regularizers.connection_count)(m)
  assert count == expected
  assert count.dtype == jnp.float32
  assert count.shape == ()


def test_zero_is_closed():
  assert regularizers.connection_count({'w': jnp.array([0.0, -0.0])}) == 0


@pytest.mark.parametrize('name', ste.ESTIMATORS)
def test_gradient_is_the_cost_times_the_surrogate(name):
  m = _mask_params()
  prices = {'a': np.arange(12.0, dtype=np.float32).reshape(4, 3), 'b': None,
            'c': [np.float32(2)]}  # fmt: skip
  gradient = jax.grad(
    lambda m: regularizers.connection_count(m, costs=prices, estimator=name)
  )(m)
  slope = ste.ESTIMATORS[name]
  np.testing.assert_allclose(gradient['a'], prices['a'] * slope(m['a']))
  np.testing.assert_allclose(gradient['c'][0], 2 * slope(m['c'][0]))
  assert gradient['b'] is None


@pytest.mark.parametrize('price', [3, 3.0, np.float32(3), jnp.float32(3)])
def test_one_cost_for_all(price):
  m = _mask_params()
  with jax.numpy_dtype_promotion('standard'):  # an int price is fine
    count = regularizers.connection_count(m, costs=price)
  assert count == 3 * regularizers.connection_count(m)


def test_costs_that_broadcast():
  m = {'w': jnp.array([[1.0, -1.0], [1.0, 1.0]])}
  prices = {'w': jnp.array([[1.0, 10.0]])}
  assert regularizers.connection_count(m, costs=prices) == 1 + 1 + 10


def test_macs_of_a_network():
  params = {'w': jnp.ones((3, 2)), 'v': jnp.ones((2, 2)), 'b': jnp.ones((1, 2))}
  fn = lambda p, x: x @ p['w'] @ p['v'] + p['b']
  prices = costs(fn, params, jnp.ones((7, 3)))
  m = masks_lib.init_mask_params(params, prunable='[wv]')
  m['w'] = m['w'].at[0, 0].set(-1.0)
  assert regularizers.connection_count(m, costs=prices) == 7 * (5 + 4)


def test_variables_that_stand_for_several_connections():
  weights = {'w': jnp.ones((5, 4))}
  m = masks_lib.init_mask_params(weights, granularity=(2, 4))
  m['w'] = m['w'].at[0].set(-1.0)
  masks = masks_lib.apply_masks(weights, jax.tree.map(ste.unit_step, m))
  sizes = {'w': jnp.array([[8.0], [8.0], [4.0]])}
  count = regularizers.connection_count(m, costs=sizes)
  assert count == jnp.sum(masks['w']) == 12


def test_the_sum_is_in_float32():
  m = {'w': jnp.ones(3000, jnp.bfloat16)}
  assert regularizers.connection_count(m) == 3000


def test_errors():
  with pytest.raises(ValueError, match='mask_params holds no array'):
    regularizers.connection_count({'b': None})
  with pytest.raises(ValueError, match='costs must fit mask_params'):
    regularizers.connection_count(_mask_params(), costs={'a': 1.0})
  with pytest.raises(ValueError, match='estimator must be one of'):
    regularizers.connection_count(_mask_params(), estimator='step')
