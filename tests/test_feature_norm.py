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
"""Tests of `normalize_by_feature_norm`."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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
    feature = tuple(
      i if axis in axes else slice(None) for axis, i in enumerate(index)
    )
    norms[index] = np.sum(g[feature] ** 2)
  return norms


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


def test_a_feature_that_awakes_between_two_refreshes_waits_for_the_next():
  tx = transforms.normalize_by_feature_norm(0.9, update_every=8)
  asleep = jnp.array([[3.0, 0.0], [4.0, 0.0]])
  awake = jnp.array([[3.0, 300.0], [4.0, 400.0]])
  _, state = tx.update(asleep, tx.init(asleep))
  for _ in range(7):
    updates, state = tx.update(awake, state)
    np.testing.assert_allclose(updates, [[0.6, 0], [0.8, 0]], rtol=1e-6)
  updates, _ = tx.update(awake, state)
  # Its moment is (1 - .9) 500² over a correction of 1 - .9².
  norm = 500 * np.sqrt(0.1 / 0.19)
  np.testing.assert_allclose(
    updates, [[0.6, 300 / norm], [0.8, 400 / norm]], rtol=1e-6
  )


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


@pytest.mark.parametrize('eps', [-10.0, float('nan'), None, jnp.float32(-1)])
def test_bad_eps(eps):
  with pytest.raises(ValueError, match='eps must be finite and >= 0'):
    transforms.normalize_by_feature_norm(eps=eps)


@pytest.mark.parametrize(
  'decay', [-0.1, 1.0, 1.5, float('nan'), 1, -1, '1', jnp.float32(2)]
)
def test_bad_decay(decay):
  with pytest.raises(ValueError, match='decay must be'):
    transforms.normalize_by_feature_norm(decay)


@pytest.mark.parametrize(
  'update_every', [0, -1, 1.5, float('nan'), float('inf')]
)
def test_bad_update_every(update_every):
  with pytest.raises(ValueError, match='update_every must be'):
    transforms.normalize_by_feature_norm(0.9, update_every=update_every)


@pytest.mark.parametrize(
  'axes', [-1, 5.0, (0.5,), 'ab', {}, {'.*': 0}, ((0,),), [None]]
)
def test_what_is_no_tuple_of_axes(axes):
  message = r'feature_axes .* such as \(-1,\)'
  with pytest.raises(ValueError, match=message):
    transforms.normalize_by_feature_norm(0.9, axes)
  tx = transforms.normalize_by_feature_norm(None, lambda path, leaf: axes)
  with pytest.raises(ValueError, match=message):
    tx.update(jnp.ones((4, 3)), optax.EmptyState())


def test_an_axis_named_twice():
  tx = transforms.normalize_by_feature_norm(None, (0, -2))
  with pytest.raises(ValueError, match=r'name an axis of .* twice'):
    tx.update(jnp.ones((4, 3)), optax.EmptyState())


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


@pytest.mark.parametrize('update_every', [1, 3])
def test_what_is_computed_again_gives_the_same(update_every):
  """`recompute` is for speed: the numbers are those without it."""
  tx = transforms.normalize_by_feature_norm(0.9, update_every=update_every)
  states = [tx.init(jnp.zeros((4, 3)))] * 2
  for step in range(5):
    g = jnp.asarray(_normal(4, 3, seed=step))
    plain, states[0] = tx.update(g, states[0])
    again, states[1] = tx.update(g, states[1], recompute=lambda g=g: g)
    np.testing.assert_array_equal(plain, again)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_norm_is_of_what_is_computed_again():
  """Else an array of the size of the updates would be stored in each step."""
  tx = transforms.normalize_by_feature_norm(0.5)
  g = jnp.asarray(_normal(4, 3))
  _, state = tx.update(g, tx.init(g), recompute=lambda: 2 * g)
  np.testing.assert_allclose(
    state.second_moment, 0.5 * 4 * _squared_norms(g, (-1,)), rtol=1e-6
  )


@pytest.mark.parametrize('bad', [1e30, jnp.inf, jnp.nan])
def test_what_is_not_finite_does_not_stay(bad):
  """Its square is not either, and the next steps are as if it had not come."""
  tx = transforms.normalize_by_feature_norm(0.9)
  updates = jnp.array([[3.0, 1.0], [4.0, 2.0]])
  state = tx.init(updates)
  for _ in range(3):
    _, state = tx.update(updates, state)
  before = state.second_moment
  _, state = tx.update(updates.at[0, 1].set(bad), state)
  np.testing.assert_array_equal(state.second_moment[0, 1], before[0, 1])
  assert state.second_moment[0, 0] > before[0, 0]
  normalized, state = tx.update(updates, state)
  assert jnp.isfinite(state.second_moment).all()
  norms = jnp.linalg.norm(updates, axis=0)
  np.testing.assert_allclose(normalized, updates / norms[None], rtol=0.15)
