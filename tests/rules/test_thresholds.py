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
"""DST and STR against their formulas, differentiated by hand in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

RATE = 0.1


def draw(seed, shape=(6, 4)):
  return np.random.default_rng(seed).normal(size=shape)


def polynomial(x):
  """DST's long-tailed surrogate, eq. 6."""
  size = np.abs(x)
  return np.where(size <= 0.4, 2 - 4 * size, np.where(size <= 1, 0.4, 0.0))


def train(rule, weight, steps):
  """A linear loss with another gradient in each step, under plain SGD."""
  tx = scl_jax.sparsify(optax.sgd(RATE), rule)
  params = {'kernel': jnp.asarray(weight, jnp.float32), 'bias': jnp.zeros(4)}
  state, step = tx.init(params), jax.jit(tx.update)
  for index in range(steps):
    grads = {
      'kernel': jnp.asarray(draw(index + 9), jnp.float32),
      'bias': jnp.ones(4),
    }
    updates, state = step(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def test_dst():
  penalty, rate, steps = 0.3, 0.2, 7
  rule = scl_jax.dynamic_sparse_training(
    penalty, mask_optimizer=optax.sgd(rate)
  )
  params, state = train(rule, draw(0), steps)
  w, t = draw(0), np.zeros((1, 4))
  for step in range(steps):
    g, q = draw(step + 9), np.abs(w) - t
    through_mask = g * w * polynomial(q)
    new_w = w - RATE * (g * (q > 0) + through_mask * np.sign(w))
    t = t - rate * (-through_mask.sum(0, keepdims=True) - penalty * np.exp(-t))
    w = new_w
  mask = np.abs(w) > t
  assert 0 < mask.mean() < 1
  np.testing.assert_allclose(state.weights['kernel'], w, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    state.rule_state.mask_params['kernel'], t, rtol=1e-4, atol=1e-6
  )
  np.testing.assert_allclose(params['kernel'], w * mask, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(scl_jax.get_masks(state)['kernel'], mask)
  np.testing.assert_allclose(params['bias'], -RATE * steps, rtol=1e-6)


def test_dst_has_a_threshold_for_each_filter():
  params = {'Conv_0': {'kernel': jnp.ones((3, 3, 2, 5))}}
  rule = scl_jax.dynamic_sparse_training(0.1)
  thresholds = rule.init(params).mask_params['Conv_0']['kernel']
  assert thresholds.shape == (1, 1, 1, 5)
  rule = scl_jax.dynamic_sparse_training(0.1, feature_axes=(2,))
  assert rule.init(params).mask_params['Conv_0']['kernel'].shape == (1, 1, 2, 1)


def test_str():
  decay, rate, steps, start = 0.4, 0.3, 7, -1.0
  rule = scl_jax.soft_threshold(
    decay, init_value=start, mask_optimizer=optax.sgd(rate)
  )
  params, state = train(rule, draw(0), steps)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  w, s = draw(0), start
  for step in range(steps):
    g, live = draw(step + 9), np.abs(w) > sigmoid(s)
    slope = sigmoid(s) * (1 - sigmoid(s))
    grad_s = -(g * np.sign(w) * live).sum() * slope
    w, s = w - RATE * g * live, s - rate * (grad_s + decay * s)
  mask = np.abs(w) > sigmoid(s)
  assert 0 < mask.mean() < 1
  expected = np.sign(w) * np.maximum(np.abs(w) - sigmoid(s), 0)
  np.testing.assert_allclose(state.weights['kernel'], w, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    state.rule_state.mask_params['kernel'], [[s]], rtol=1e-4
  )
  for kernel in (params['kernel'], scl_jax.get_params(state, rule)['kernel']):
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(scl_jax.get_masks(state)['kernel'], mask)


def test_weight_decay_of_str_reaches_weights_below_the_threshold():
  rule = scl_jax.soft_threshold(0.0, init_value=0.0)
  tx = scl_jax.sparsify(optax.chain(
    optax.add_decayed_weights(0.5), optax.sgd(1.0)), rule)  # fmt: skip
  params = {'w': jnp.array([[0.2, 2.0]])}
  zeros = jax.tree.map(jnp.zeros_like, params)
  _, state = tx.update(zeros, tx.init(params), params)
  np.testing.assert_allclose(state.weights['w'], [[0.1, 1.0]])


RULES = {
  'dst': scl_jax.dynamic_sparse_training,
  'str': scl_jax.soft_threshold,
}
each_rule = pytest.mark.parametrize('make_rule', RULES.values(), ids=RULES)


@each_rule
def test_a_schedule_is_followed(make_rule):
  rule = make_rule(optax.linear_schedule(0.0, 1.0, 10))
  weights, name = {'w': jnp.ones((2, 2))}, ('penalty', 'decay')
  state, seen = rule.init(weights), []
  update = jax.jit(rule.update)
  for _ in range(4):
    state = update(weights, state, weights)
    seen += [float(getattr(state, n)) for n in name if hasattr(state, n)]
  np.testing.assert_allclose(seen, [0.0, 0.1, 0.2, 0.3], atol=1e-6)


@each_rule
@pytest.mark.parametrize('value', [-1.0, float('nan'), 'high', np.ones(2)])
def test_errors(make_rule, value):
  with pytest.raises(ValueError, match=r'(penalty|decay) must be'):
    make_rule(value)


def test_errors_of_one_rule():
  with pytest.raises(ValueError, match='estimator must be one of'):
    scl_jax.dynamic_sparse_training(0.1, estimator='step')
  with pytest.raises(ValueError, match='init_value must be finite'):
    scl_jax.soft_threshold(0.1, init_value=np.inf)
  rule = scl_jax.dynamic_sparse_training(0.1, feature_axes=2)
  with pytest.raises(ValueError, match='out of range'):
    rule.init({'w': jnp.ones((2, 2))})
