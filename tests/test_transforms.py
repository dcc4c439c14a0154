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
"""Tests of transforms.py; those of the norm are in test_feature_norm.py."""

import functools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scl_jax import ste
from scl_jax import transforms

pytestmark = pytest.mark.usefixtures('strict')

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def _normal(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


# add_connection_penalty


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize(
  'penalty', [0.25, 0, np.float32(0.25), np.float64(0.25), 'array', 'schedule']
)
def test_penalty_kinds(penalty, dtype):
  value = 0.25 if isinstance(penalty, str) else float(penalty)
  if isinstance(penalty, str):
    penalty = {'array': jnp.float32(0.25), 'schedule': lambda _: 0.25}[penalty]
  g = jnp.asarray([0.5, -0.5], dtype)
  tx = transforms.add_connection_penalty(penalty)
  standard = jax.numpy_dtype_promotion('standard')
  with standard:  # an array of another dtype is fine
    updates, _ = tx.update(g, tx.init(g), g)
  assert updates.dtype == dtype
  assert updates.tolist() == [0.5 + value, -0.5 + value]


def test_penalty_schedule_counts_steps():
  tx = transforms.add_connection_penalty(lambda step: 0.5 * jnp.float32(step))
  g = {'w': jnp.zeros(2), 'b': None}
  state = tx.init(g)
  update = jax.jit(tx.update)
  for step in range(4):
    assert state.count == step
    assert state.count.dtype == jnp.int32
    updates, state = update(g, state, g)
    assert updates['w'].tolist() == [0.5 * step] * 2
    assert updates['b'] is None
  assert update._cache_size() == 1


def test_penalty_traced_and_vmapped():
  g = jnp.zeros(2)

  def update(penalty):
    tx = transforms.add_connection_penalty(penalty)
    return tx.update(g, tx.init(g), g)[0]

  penalties = jnp.array([0.0, 0.5, 2.0])
  assert jax.jit(update)(penalties[1]).tolist() == [0.5, 0.5]
  assert jax.vmap(update)(penalties).tolist() == [[0, 0], [0.5, 0.5], [2, 2]]


@pytest.mark.parametrize('name', ste.ESTIMATORS)
def test_penalty_is_the_gradient_of_the_count(name):
  m = jnp.array([-2.0, -0.5, 0.0, 0.3, 2.0])
  gradient = jax.grad(lambda m: 0.5 * ste.unit_step(m, name).sum())(m)
  tx = transforms.add_connection_penalty(0.5, derivative=ste.ESTIMATORS[name])
  updates, _ = tx.update(jnp.ones(5), tx.init(m), m)
  np.testing.assert_allclose(updates, 1 + gradient, rtol=1e-6)


def test_penalty_with_inject_hyperparams():
  m = {'w': jnp.array([-1.0, 1.0])}
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.inject_hyperparams(
      transforms.add_connection_penalty, static_args='derivative'
    )(0.5, derivative=ste.relu)
    state = tx.init(m)
    assert tx.update(m, state, m)[0]['w'].tolist() == [-1.0, 1.5]
    state = optax.tree.set(state, penalty=jnp.float32(0.25))
    assert tx.update(m, state, m)[0]['w'].tolist() == [-1.0, 1.25]


@pytest.mark.parametrize(
  'penalty',
  [
    -0.1,
    -1,
    float('nan'),
    float('inf'),
    np.float32(-1),
    jnp.float32(-1),
    '1',
    None,
  ],
)
def test_bad_penalty(penalty):
  with pytest.raises(ValueError, match='penalty must be finite and >= 0'):
    transforms.add_connection_penalty(penalty)


def test_bad_derivative():
  with pytest.raises(ValueError, match='derivative must be a function'):
    transforms.add_connection_penalty(0.1, derivative='softplus')


# keep_params_in_box

_floats = functools.partial(
  st.floats, allow_nan=False, allow_subnormal=False, width=32
)
_entries = functools.partial(st.lists, min_size=8, max_size=8)


@hypothesis.given(
  bound=st.sampled_from([2.0**-10, 0.3, 1.0, 7.0]),
  shares=_entries(_floats(-1, 1)),
  updates=_entries(_floats()),
)
def test_params_stay_in_the_box(bound, shares, updates):
  bound = np.float32(bound)
  p = bound * np.asarray(shares, np.float32)
  u = np.asarray(updates, np.float32)
  tx = transforms.keep_params_in_box(bound)
  boxed, _ = tx.update(jnp.asarray(u), tx.init(p), jnp.asarray(p))
  moved = np.asarray(optax.apply_updates(jnp.asarray(p), boxed))
  assert np.all(np.abs(moved) <= np.nextafter(bound, np.float32(np.inf)))
  # Where it ends is the nearest point of the box.
  with np.errstate(over='ignore'):
    expected = np.clip(p.astype(np.float64) + u, -bound, bound)
  np.testing.assert_allclose(moved, expected, rtol=0, atol=2e-7 * bound)


@hypothesis.given(
  bound=st.sampled_from([0.3, 1.0, 7.0]),
  starts=_entries(_floats(-0.5, 0.5)),
  updates=_entries(_floats(-0.5, 0.5)),
)
def test_updates_that_stay_inside_are_unchanged(bound, starts, updates):
  p = np.float32(bound) * np.asarray(starts, np.float32)
  u = np.float32(bound) * np.asarray(updates, np.float32)
  tx = transforms.keep_params_in_box(bound)
  boxed, _ = tx.update(jnp.asarray(u), tx.init(p), jnp.asarray(p))
  np.testing.assert_allclose(boxed, u, rtol=0, atol=1e-7 * bound)


@pytest.mark.parametrize('start', [-5.0, 5.0])
def test_params_outside_the_box_are_fetched(start):
  p = jnp.array([start])
  tx = transforms.keep_params_in_box(0.5)
  boxed, _ = tx.update(jnp.zeros(1), tx.init(p), p)
  assert optax.apply_updates(p, boxed).tolist() == [np.sign(start) / 2]


@pytest.mark.parametrize('dtype', DTYPES)
def test_box_dtypes(dtype):
  p = jnp.array([0.25, -0.25], dtype)
  tx = transforms.keep_params_in_box(0.5)
  boxed, _ = tx.update(jnp.array([1.0, 0.125], dtype), tx.init(p), p)
  assert boxed.dtype == dtype
  assert boxed.tolist() == [0.25, 0.125]


def test_box_traced_and_with_holes():
  p = {'w': jnp.array([0.25, -0.25]), 'b': None}

  @jax.jit
  def update(bound):
    tx = transforms.keep_params_in_box(bound)
    return tx.update({'w': jnp.ones(2), 'b': None}, tx.init(p), p)[0]

  assert update(0.5)['w'].tolist() == [0.25, 0.75]
  assert update(0.25)['w'].tolist() == [0.0, 0.5]
  assert update._cache_size() == 1


@pytest.mark.parametrize(
  'bound', [0, 0.0, -0.3, float('nan'), np.float32(-1), jnp.float32(-1), None]
)
def test_bad_bound(bound):
  with pytest.raises(ValueError, match='bound must be > 0'):
    transforms.keep_params_in_box(bound)


@pytest.mark.parametrize(
  'tx',
  [
    transforms.add_connection_penalty(0.1),
    transforms.add_connection_penalty(lambda _: 0.1),
    transforms.keep_params_in_box(0.3),
  ],
)
def test_params_are_needed(tx):
  g = jnp.ones(2)
  with pytest.raises(ValueError, match='params'):
    tx.update(g, tx.init(g))


# Together


def _mask_optimizer(penalty=0.05, learning_rate=0.1):
  return optax.chain(
    transforms.normalize_by_feature_norm(decay=0.9),
    transforms.add_connection_penalty(penalty),
    optax.sgd(learning_rate),
    transforms.keep_params_in_box(0.3),
  )


def test_chain_against_numpy():
  tx = _mask_optimizer()
  m = _normal(4, 3, scale=0.2).clip(-0.3, 0.3)
  params, state = jnp.asarray(m), tx.init(jnp.asarray(m))
  update = jax.jit(tx.update)
  moment = 0.0
  for step in range(5):
    g = _normal(4, 3, seed=step)
    updates, state = update(jnp.asarray(g), state, params)
    params = optax.apply_updates(params, updates)
    moment = 0.9 * moment + 0.1 * np.sum(g**2, 0, keepdims=True)
    n = g / np.sqrt(moment / (1 - 0.9 ** (step + 1)))
    m = np.clip(m - 0.1 * (n + 0.05), -0.3, 0.3)
    np.testing.assert_allclose(params, m, rtol=1e-4, atol=1e-6)
  assert update._cache_size() == 1


@pytest.mark.parametrize('axes', [(-1,), lambda key_path, leaf: (-1,)])
def test_partition_leaves_the_other_branch_alone(axes):
  params = {
    'weights': {'k': jnp.ones((4, 3)), 'b': jnp.ones(3)},
    'masks': {'k': jnp.full((4, 3), 0.3), 'b': None},
  }
  tx = optax.partition(
    {
      'w': optax.sgd(0.5),
      'm': transforms.normalize_by_feature_norm(0.9, axes),
    },
    {'weights': 'w', 'masks': 'm'},
  )
  updates, state = tx.update(params, tx.init(params), params)
  updates, _ = tx.update(params, state, params)
  np.testing.assert_allclose(updates['weights']['k'], -0.5)
  np.testing.assert_allclose(updates['masks']['k'], 0.5, rtol=1e-6)
  assert updates['masks']['b'] is None


def test_the_explicit_recipe_prunes_useless_inputs():
  """weights * unit_step(mask_params), as the README shows it."""
  rng = np.random.default_rng(0)
  truth = np.zeros((10, 2), np.float32)
  truth[:3] = [[1, -2], [-1.5, 1], [2, 0.5]]
  x = jnp.asarray(rng.normal(size=(600, 32, 10)), jnp.float32)
  y = x @ truth + 0.3 * jnp.asarray(rng.normal(size=(600, 32, 2)), jnp.float32)

  def loss(params, batch):
    kernel = params['weights']['k'] * ste.unit_step(params['masks']['k'])
    predictions = batch[0] @ kernel + params['weights']['b'][None]
    return jnp.mean((predictions - batch[1]) ** 2)

  tx = optax.partition(
    {'w': optax.sgd(0.05), 'm': _mask_optimizer(penalty=0.05)},
    {'weights': 'w', 'masks': 'm'},
  )
  params = {
    'weights': {'k': jnp.asarray(_normal(10, 2)), 'b': jnp.zeros(2)},
    'masks': {'k': jnp.full((10, 2), 0.3)},
  }

  @jax.jit
  def train(params):
    def step(carry, batch):
      params, state = carry
      grads = jax.grad(loss)(params, batch)
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
      return (params, state), params['masks']['k'] > 0

    return jax.lax.scan(step, (params, tx.init(params)), (x, y))

  (params, _), live = train(params)
  share = np.asarray(live, np.float32)[-200:].mean(axis=0)
  assert np.all(share[:3] > 0.8), share
  assert np.all(share[3:] < 0.05), share
  mask = np.asarray(params['masks']['k']) > 0
  np.testing.assert_array_equal(mask, truth != 0)
  kernel = np.asarray(params['weights']['k']) * mask
  np.testing.assert_allclose(kernel, truth, atol=0.15)
