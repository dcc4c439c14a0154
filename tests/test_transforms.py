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
"""Tests of transforms.py."""

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
ROUNDING = {jnp.float32: 1e-6, jnp.bfloat16: 4e-3, jnp.float16: 5e-4}


def _normal(*shape, seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  return (scale * rng.normal(size=shape)).astype(np.float32)


def _squared_norms(g, axes):
  """By brute force: one feature at a time."""
  g = np.asarray(g, np.float64)
  axes = [axis % g.ndim for axis in axes]
  norms = np.zeros([d if a in axes else 1 for a, d in enumerate(g.shape)])
  for index in np.ndindex(norms.shape):
    feature = tuple(i if a in axes else slice(None)
                    for a, i in enumerate(index))  # fmt: skip
    norms[index] = np.sum(g[feature] ** 2)
  return norms


# normalize_by_feature_norm


@pytest.mark.parametrize(
  ('shape', 'axes'),
  [
    ((4, 3), (-1,)),
    ((4, 3), (0,)),
    ((4, 3), (0, 1)),
    ((4, 3), ()),
    ((3, 2, 4, 5), (-1,)),
    ((3, 2, 4, 5), (0, -1)),
    ((8, 2, 4), (-2, -1)),
    ((5,), (-1,)),
    ((5,), ()),
    ((), ()),
    ((1, 1), (-1,)),
    ((0, 3), (-1,)),
  ],
)
def test_against_numpy(shape, axes):
  g = _normal(*shape)
  tx = transforms.normalize_by_feature_norm(feature_axes=axes)
  updates, _ = tx.update({'k': jnp.asarray(g), 'b': None}, optax.EmptyState())
  expected = g / np.sqrt(_squared_norms(g, axes)) if g.size else g
  np.testing.assert_allclose(updates['k'], expected, rtol=1e-6)
  assert updates['k'].dtype == jnp.float32
  assert updates['b'] is None


def test_none_is_one_feature_a_leaf():
  g = {'a': _normal(3, 4), 'b': _normal(2, 2, seed=1)}
  tx = transforms.normalize_by_feature_norm(feature_axes=None)
  updates, _ = tx.update(jax.tree.map(jnp.asarray, g), tx.init(g))
  for name in g:
    expected = g[name] / np.linalg.norm(g[name])
    np.testing.assert_allclose(updates[name], expected, rtol=1e-6)


def test_axes_from_a_function():
  def axes(key_path, leaf):
    assert leaf.ndim == 2
    return (0,) if key_path[-1].key == 'weight' else (-1,)

  g = {'weight': _normal(3, 4), 'kernel': _normal(4, 3)}
  tx = transforms.normalize_by_feature_norm(0.5, axes)
  state = tx.init(g)
  assert state.second_moment['weight'].shape == (3, 1)
  assert state.second_moment['kernel'].shape == (1, 3)
  updates, _ = tx.update(jax.tree.map(jnp.asarray, g), state)
  norms = np.linalg.norm(g['weight'], axis=1, keepdims=True)
  np.testing.assert_allclose(updates['weight'], g['weight'] / norms, rtol=1e-6)
  norms = np.linalg.norm(g['kernel'], axis=0, keepdims=True)
  np.testing.assert_allclose(updates['kernel'], g['kernel'] / norms, rtol=1e-6)


@pytest.mark.parametrize('update_every', [1, 3])
@pytest.mark.parametrize('decay', [0.0, 0.5, 0.99])
@pytest.mark.parametrize('axes', [(-1,), ()])
def test_running_norm_against_a_recursion(decay, update_every, axes):
  tx = transforms.normalize_by_feature_norm(
    decay, axes, update_every=update_every
  )
  update = jax.jit(tx.update)
  state = tx.init({'k': jnp.zeros((4, 3))})
  moment, refreshes = 0.0, 0
  for step in range(8):
    g = _normal(4, 3, seed=step, scale=10.0**step / 1e4)
    if step % update_every == 0:
      moment = decay * moment + (1 - decay) * _squared_norms(g, axes)
      refreshes += 1
    expected = g / np.sqrt(moment / (1 - decay**refreshes))
    updates, state = update({'k': jnp.asarray(g)}, state)
    np.testing.assert_allclose(updates['k'], expected, rtol=2e-5)
  assert state.count == 8
  np.testing.assert_allclose(state.second_moment['k'], moment, rtol=1e-5)
  assert update._cache_size() == 1


def test_a_decay_of_zero_is_the_current_norm():
  g = jnp.asarray(_normal(4, 3))
  running = transforms.normalize_by_feature_norm(0.0)
  current = transforms.normalize_by_feature_norm()
  np.testing.assert_allclose(
    running.update(g, running.init(g))[0],
    current.update(g, current.init(g))[0],
    rtol=1e-6,
  )


def test_the_norm_before_the_next_refresh_scales_with_nothing():
  tx = transforms.normalize_by_feature_norm(0.9, update_every=4)
  g = jnp.asarray(_normal(4, 3))
  first, state = tx.update(g, tx.init(g))
  second, _ = tx.update(10 * g, state)
  np.testing.assert_allclose(second, 10 * first, rtol=1e-6)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('decay', [None, 0.9])
def test_dtypes_and_dead_features(decay, dtype):
  g = jnp.asarray(_normal(6, 3), dtype).at[:, 1].set(0)
  tx = transforms.normalize_by_feature_norm(decay)
  state = tx.init(g)
  for _ in range(2):
    updates, state = tx.update(g, state)
  assert updates.dtype == dtype
  exact = np.asarray(g, np.float64)
  norm = np.maximum(np.linalg.norm(exact, axis=0), 1e-30)
  np.testing.assert_allclose(
    np.asarray(updates, np.float64), exact / norm, rtol=ROUNDING[dtype]
  )
  assert not np.any(updates[:, 1])
  if decay is not None:
    assert state.second_moment.dtype == jnp.float32


@pytest.mark.parametrize('dtype', DTYPES)
def test_sums_do_not_overflow_or_vanish_in_half_precision(dtype):
  # 3e4² is inf in float16, 1e-5² is 0.
  g = jnp.stack([jnp.full(64, 3e4, dtype), jnp.full(64, 1e-5, dtype)], 1)
  tx = transforms.normalize_by_feature_norm()
  updates = np.asarray(tx.update(g, tx.init(g))[0], np.float64)
  np.testing.assert_allclose(updates, 1 / 8, rtol=ROUNDING[dtype])


def test_a_feature_that_awakes_late():
  tx = transforms.normalize_by_feature_norm(0.9)
  g = jnp.asarray(_normal(4, 2)).at[:, 1].set(0)
  state = tx.init(g)
  for _ in range(3):
    updates, state = tx.update(g, state)
    assert not jnp.any(updates[:, 1])
  awake = jnp.asarray(_normal(4, 2))
  updates, _ = tx.update(awake, state)
  # Its moment is (1 - .9) s over a correction of 1 - .9^4.
  expected = awake[:, 1] / np.linalg.norm(awake[:, 1])
  expected = expected / np.sqrt(0.1 / (1 - 0.9**4))
  np.testing.assert_allclose(updates[:, 1], expected, rtol=1e-5)


@hypothesis.given(
  scale=st.floats(1e-6, 1e6),
  feature=st.integers(0, 2),
  seed=st.integers(0, 2**16),
)
def test_invariant_under_the_scale_of_a_feature(scale, feature, seed):
  tx = transforms.normalize_by_feature_norm()
  g = _normal(4, 3, seed=seed)
  scaled = g.copy()
  scaled[:, feature] *= np.float32(scale)
  np.testing.assert_allclose(
    tx.update(jnp.asarray(scaled), optax.EmptyState())[0],
    tx.update(jnp.asarray(g), optax.EmptyState())[0],
    rtol=2e-5,
  )


def test_state_keeps_structure_shape_and_dtype():
  params = {'k': jnp.zeros((4, 3), jnp.bfloat16), 'n': None, 's': [jnp.ones(2)]}
  tx = transforms.normalize_by_feature_norm(0.9, update_every=2)
  state = tx.init(params)
  spec = jax.eval_shape(lambda: state)
  assert state.count.dtype == jnp.int32
  for _ in range(3):
    _, state = tx.update(params, state)
    assert jax.eval_shape(lambda s=state: s) == spec
  assert isinstance(transforms.normalize_by_feature_norm().init(params), tuple)


def test_init_computes_no_norm():
  # Shapes before arrays: an abstract tree is enough.
  tx = transforms.normalize_by_feature_norm(0.9)
  spec = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((4, 3), jnp.float32))
  assert spec.second_moment.shape == (1, 3)


def test_jit_and_vmap():
  tx = transforms.normalize_by_feature_norm(0.9)
  g = jnp.asarray(_normal(5, 4, 3))
  state = jax.vmap(tx.init)(g)
  together, state = jax.jit(jax.vmap(tx.update))(g, state)
  together, state = jax.jit(jax.vmap(tx.update))(2 * g, state)
  for index in range(5):
    alone = tx.init(g[index])
    _, alone = tx.update(g[index], alone)
    expected, alone = tx.update(2 * g[index], alone)
    np.testing.assert_allclose(together[index], expected, rtol=1e-6)


def test_vmap_over_the_decay():
  g = jnp.asarray(_normal(4, 3))

  def second_update(decay):
    tx = transforms.normalize_by_feature_norm(decay)
    _, state = tx.update(g, tx.init(g))
    return tx.update(2 * g, state)[0]

  decays = jnp.array([0.0, 0.5, 0.9])
  expected = jnp.stack([second_update(float(d)) for d in decays])
  np.testing.assert_allclose(
    jax.vmap(second_update)(decays), expected, rtol=1e-5
  )


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('decay', [None, 0.9])
def test_inject_hyperparams(decay, dtype):
  # optax casts the hyper-parameters to float16, in which eps is 0.
  g = {'k': jnp.asarray(_normal(4, 3), dtype).at[:, 1].set(0)}
  make = optax.inject_hyperparams(transforms.normalize_by_feature_norm)
  kwargs = {'feature_axes': (-1,), 'update_every': 1}
  with jax.numpy_dtype_promotion('standard'):
    tx = make(**kwargs) if decay is None else make(decay=decay, **kwargs)
    state = tx.init(g)
    update = jax.jit(tx.update)
    for _ in range(2):
      updates, state = update(g, state)
  assert update._cache_size() == 1
  plain = transforms.normalize_by_feature_norm(decay)
  expected, _ = plain.update(g, plain.init(g))
  assert updates['k'].dtype == dtype
  np.testing.assert_allclose(
    np.asarray(updates['k'], np.float32),
    np.asarray(expected['k'], np.float32),
    rtol=2 * ROUNDING[dtype],
  )


def test_inject_hyperparams_with_a_function_of_axes():
  make = optax.inject_hyperparams(
    transforms.normalize_by_feature_norm, static_args='feature_axes'
  )
  g = jnp.asarray(_normal(4, 3))
  with jax.numpy_dtype_promotion('standard'):
    tx = make(decay=0.9, feature_axes=lambda path, leaf: (0,))
    updates, _ = tx.update(g, tx.init(g))
  norms = np.linalg.norm(g, axis=1, keepdims=True)
  np.testing.assert_allclose(updates, g / norms, rtol=1e-6)


def test_inject_a_schedule_of_the_decay():
  with jax.numpy_dtype_promotion('standard'):
    tx = optax.inject_hyperparams(transforms.normalize_by_feature_norm)(
      decay=lambda step: 0.5 + 0.1 * step
    )
    g = jnp.asarray(_normal(4, 3))
    state = tx.init(g)
    _, state = tx.update(g, state)
    _, state = tx.update(g, state)
  assert state.hyperparams['decay'] == pytest.approx(0.6)


@pytest.mark.parametrize('decay', [-0.1, 1.0, 1.5, float('nan'), 1, -1])
def test_bad_decay(decay):
  with pytest.raises(ValueError, match='decay must be'):
    transforms.normalize_by_feature_norm(decay)


@pytest.mark.parametrize(
  'update_every', [0, -1, 1.5, float('nan'), float('inf')]
)
def test_bad_update_every(update_every):
  with pytest.raises(ValueError, match='update_every must be'):
    transforms.normalize_by_feature_norm(0.9, update_every=update_every)


@pytest.mark.parametrize('axes', [(2,), (-3,), (0, 2)])
def test_axes_out_of_range(axes):
  g = {'layer': {'k': jnp.ones((4, 3))}}
  stateless = transforms.normalize_by_feature_norm(None, axes)
  message = r"feature_axes.*range.*'layer'.*'k'.*\(4, 3\)"
  for tx in [stateless, transforms.normalize_by_feature_norm(0.9, axes)]:
    with pytest.raises(ValueError, match=message):
      tx.init(g)
  with pytest.raises(ValueError, match=message):
    stateless.update(g, optax.EmptyState())


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
    state = optax.tree.set(state, penalty=jnp.float32(-0.25))
    assert tx.update(m, state, m)[0]['w'].tolist() == [-1.0, 0.75]


@pytest.mark.parametrize(
  'penalty', [-0.1, -1, float('nan'), float('inf'), np.float32(-1)]
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


@pytest.mark.parametrize('bound', [0, 0.0, -0.3, float('nan'), np.float32(-1)])
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
    moment = 0.9 * moment + 0.1 * _squared_norms(g, (-1,))
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
