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
"""The price on live features: a gradient, and what it does to training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax
from scl_jax import feature_price


def count(live, power, outputs, inputs):
  """Σ_f n_f^(1 - γ) / (1 - γ), of outputs and inputs; a logarithm at γ = 1."""
  total = 0.0
  for axes in (outputs, inputs):
    others = tuple(a for a in range(live.ndim) if a not in axes)
    n = live.sum(others)
    total += (
      jnp.log(n) if power == 1 else n ** (1 - power) / (1 - power)
    ).sum()
  return total


@pytest.mark.parametrize(
  ('path', 'shape', 'axes', 'outputs', 'inputs'),
  [
    ('Dense_0/kernel', (7, 5), None, (1,), (0,)),
    ('Conv_0/kernel', (3, 3, 4, 6), None, (3,), (2,)),
    ('linear/weight', (5, 4, 3, 3), None, (0,), (1,)),
    ('query/kernel', (4, 2, 3), None, (1, 2), (0,)),
    ('w', (6,), (0,), (0,), ()),
    ('w', (5, 6), (0, 1), (0, 1), ()),
    ('w', (5, 6), (), (), ()),
  ],
)
@pytest.mark.parametrize('power', [0.3, 1.0])
def test_prices_are_the_slope_of_a_count(
  path, shape, axes, outputs, inputs, power
):
  rng = np.random.default_rng(0)
  live = rng.random(shape) < 0.5
  *parents, name = path.split('/')
  m = {name: jnp.where(live, 0.1, -0.2)}
  for parent in reversed(parents):
    m = {parent: m}
  (prices,) = jax.tree.leaves(feature_price.relative_prices(m, power, axes))
  prices = np.broadcast_to(prices, shape)
  # Below one live connection the slope is that at one.
  slope = jax.grad(count)(jnp.float32(live), power, outputs, inputs)
  slope = np.where(np.isfinite(slope), slope, 0)
  counted = live & np.isfinite(slope)
  expected = slope / slope[live].mean()
  np.testing.assert_allclose(prices[counted], expected[counted], rtol=1e-5)
  np.testing.assert_allclose(prices[live].mean(), 1.0, rtol=1e-6)


def test_layers_of_a_stack_are_priced_one_by_one():
  live = np.random.default_rng(0).random((3, 3, 3, 4, 5)) < 0.5
  live[1, :, :, 0] = False
  live[1, 0, 0, 0, 0] = True  # an input that is nearly empty, in one layer
  m = jnp.where(live, 1.0, -1.0)
  (stacked,) = jax.tree.leaves(
    feature_price.relative_prices({'w': m}, 1.0, (0, -1))
  )
  # A layer's own mean is 1, that of the stack's connections is in `stacked`.
  for i, layer in enumerate(m):
    (alone,) = jax.tree.leaves(
      feature_price.relative_prices({'w': layer}, 1.0, -1)
    )
    ratios = np.broadcast_to(stacked[i] / alone, layer.shape)
    np.testing.assert_allclose(ratios, ratios.flat[0], rtol=1e-5)


def test_no_power_is_one_price_for_all():
  m = {'w': jnp.where(jnp.eye(4, 3), 1.0, -1.0), 'b': None}
  np.testing.assert_array_equal(
    feature_price.relative_prices(m, 0.0)['w'], np.ones((4, 3))
  )


def test_where_all_is_dead_prices_are_finite():
  m = {'w': -jnp.ones((4, 3))}
  np.testing.assert_array_equal(
    feature_price.relative_prices(m, 0.5)['w'], np.ones((4, 3))
  )


def features_after(power):
  """Live connections, outputs and inputs where all connections are as good."""
  rule = scl_jax.scl(target_density=0.05, freeze_step=200, feature_price=power)
  weights = {'kernel': jnp.ones((40, 40))}

  def step(state, key):
    noise = {'kernel': jax.random.normal(key, (40, 40))}
    return rule.update(noise, state, weights), None

  keys = jax.random.split(jax.random.key(0), 201)
  state, _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))(rule.init(weights))
  live = np.asarray(state.masks['kernel'])
  return live.sum(), live.any(0).sum() + live.any(1).sum()


def test_it_leaves_fewer_features_at_the_same_density():
  (connections, features), (same, fewer) = map(features_after, (0.0, 1.0))
  assert connections == same == 80
  assert fewer < 0.85 * features


@pytest.mark.parametrize('price', [-0.1, 1.5, np.nan])
def test_a_price_out_of_range(price):
  with pytest.raises(ValueError, match='feature_price'):
    scl_jax.scl(penalty=0.1, feature_price=price)


def test_granularity_by_pattern():
  weights = {'conv': jnp.ones((3, 3, 2, 4)), 'w': jnp.ones((4, 3))}
  m = scl_jax.init_mask_params(
    weights,
    prunable='conv|w',
    granularity={'conv': 'feature', '.*': 'connection'},
    feature_axes=-1,
  )
  assert m['conv'].shape == (1, 1, 1, 4)
  assert m['w'].shape == (4, 3)
  with pytest.raises(ValueError, match="no pattern for 'w'"):
    scl_jax.init_mask_params(
      weights, prunable='conv|w', granularity={'conv': 'feature'}
    )
