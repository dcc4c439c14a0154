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
"""Compaction without verification: nothing is left for it to find."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax
from scl_jax.compaction import certificates

X = jax.random.normal(jax.random.key(0), (4, 3))


def draw(seed, **shapes):
  rng = np.random.default_rng(seed)
  return {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }


def masks_of(seed, params, density=0.4):
  """Connections, and sometimes whole rows or columns, are gone."""
  rng = np.random.default_rng(seed + 1)

  def mask(p):
    live = rng.random(p.shape) < density
    for axis, size in enumerate(p.shape):
      gone = rng.random(size) < 0.3
      live &= ~np.expand_dims(gone, [a for a in range(p.ndim) if a != axis])
    return jnp.asarray(live, jnp.float32)

  return jax.tree.map(mask, params)


def check(fn, params, masks, *inputs, **tolerance):
  small = scl_jax.compact(fn, params, masks, *inputs, verify=False)
  np.testing.assert_allclose(
    small.fn(small.params, *inputs),
    fn(scl_jax.apply_masks(params, masks), *inputs),
    **{'rtol': 1e-5, 'atol': 1e-5, **tolerance},
  )
  return small


FRAGILE = {
  'log': lambda u: jnp.log(jnp.abs(u)),
  'reciprocal': lambda u: 1 / u,
  'power': lambda u: u**-2,
  'rsqrt': lambda u: jax.lax.rsqrt(jnp.abs(u)),
  'exp': lambda u: jnp.exp(1 / (u * u)),
  'sort': lambda u: 1 / jnp.sort(u, -1),
  'softmax': lambda u: jax.nn.softmax(u, -1),
  'masked': lambda u: jax.nn.softmax(jnp.where(u > 0, u, -jnp.inf), -1),
  'mean': lambda u: u / jnp.abs(u).mean(-1, keepdims=True),
}


@pytest.mark.parametrize('kind', FRAGILE)
@hypothesis.settings(max_examples=6)
@hypothesis.given(seed=st.integers(0, 2**32 - 2))
def test_what_a_zero_may_not_hide(kind, seed):
  """Multiplied by 0 and tied to what is needed, beside live features."""
  params = draw(seed, w=(3, 4), a=(4, 5), m=(5,), t=(3, 5), v=(5, 2))
  masks = masks_of(seed, params) | {'w': None, 't': None}

  def fn(p, x):
    u = jnp.tanh(x @ p['w']) @ p['a'] + 0.1
    return (jnp.tanh(x @ p['t']) + FRAGILE[kind](u) * p['m']) @ p['v']

  check(fn, params, masks, X, rtol=1e-3)


@hypothesis.settings(max_examples=12)
@hypothesis.given(seed=st.integers(0, 2**32 - 2))
def test_stacks_and_tiles(seed):
  params = draw(seed, a=(3, 4), b=(3, 4), v=(8, 2))
  masks = masks_of(seed, params)

  def fn(p, x):
    stacked = jnp.stack([x @ p['a'], jnp.tanh(x @ p['b']) + 1], 1)
    a, b = jnp.unstack(stacked * 2, axis=1)
    return jnp.tile(a * b, (1, 2)) @ p['v']

  check(fn, params, masks, X)


def test_a_gated_unit_gets_smaller():
  """Hidden unit 1 of both parts is dead, as neither copy of it is read."""
  params = draw(0, a=(3, 4), b=(3, 4), v=(8, 2))
  params['v'] = params['v'].at[jnp.array([1, 5])].set(0)

  def fn(p, x):
    pair = jnp.stack([x @ p['a'], jax.nn.sigmoid(x @ p['b'])])
    a, b = jnp.unstack(pair)
    return jnp.tile(a * b, (1, 2)) @ p['v']

  small = check(fn, params, None, X)
  shapes = {name: leaf.shape for name, leaf in small.params.items()}
  assert shapes == {'a': (3, 3), 'b': (3, 3), 'v': (6, 2)}


def test_a_logarithm_of_what_went():
  """tanh(x @ w) could go, as m is 0; then log 0 would stay, times 0."""
  params = draw(0, w=(3, 2), t=(3, 2)) | {
    'a': jnp.eye(2),
    'm': jnp.array([0.0, 1.0]),
  }
  fn = lambda p, x: (
    x @ p['t'] + jnp.log(jnp.abs(jnp.tanh(x @ p['w']) @ p['a'])) * p['m']
  )
  check(fn, params, None, X)


def test_what_is_infinite_already_stays_so():
  """0 times a constant that is infinite is no 0, with or without us."""
  params = draw(0, w=(3, 4), v=(4, 2)) | {'s': jnp.array([1.0, 0, 0, 2])}
  masks = {'w': None, 'v': jnp.array([[0.0], [0], [1], [1]]), 's': None}
  fn = lambda p, x: ((x @ p['w']) / p['s'] * 0 + 1 / p['s']) @ p['v']
  small = scl_jax.compact(fn, params, masks, X, verify=False)
  masked = scl_jax.apply_masks(params, masks)
  # Its second feature is infinite: inf times the masked row of v is no number.
  assert np.isnan(fn(masked, X)).all()
  assert np.isnan(small.fn(small.params, X)).all()


@hypothesis.settings(max_examples=10)
@hypothesis.given(seed=st.integers(0, 2**32 - 2))
def test_features_that_are_used_twice(seed):
  """One reader may be dead, the other alive."""
  params = draw(seed, w=(3, 6), b=(6,), u=(6, 2), v=(6, 2), s=(6,))
  masks = masks_of(seed, params) | {'b': None}

  def fn(p, x):
    h = jax.nn.relu(x @ p['w'] + p['b'])
    return h @ p['u'] + jnp.tanh(h * p['s']) @ p['v']

  small = check(fn, params, masks, X)
  masked = scl_jax.apply_masks(params, masks)
  is_read = masked['u'].any(1) | (masked['v'].any(1) & (masked['s'] != 0))
  assert small.params['w'].shape[1] <= int(is_read.sum())


@hypothesis.settings(max_examples=10)
@hypothesis.given(seed=st.integers(0, 2**32 - 2))
def test_shared_leaves(seed):
  """An encoder's weight is the decoder's, too, and a square one is both."""
  params = draw(seed, w=(3, 6), b=(6,), q=(6, 6))
  masks = masks_of(seed, params) | {'b': None}

  def fn(p, x):
    h = jnp.tanh(x @ p['w'] + p['b'])
    h = h @ p['q'] @ p['q']
    return h @ p['w'].T

  check(fn, params, masks, X)


def conv(x, kernel, **options):
  numbers = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
  options = {'window_strides': (1, 1), 'padding': 'VALID', **numbers, **options}
  return jax.lax.conv_general_dilated(x, kernel, **options)


# What reads an image of 4x4x4 that a dense layer made, and its weights' shape.
READERS = {
  '1x1': (conv, (1, 1, 4, 2)),
  'same': (lambda x, v: conv(x, v, padding='SAME'), (3, 3, 4, 2)),
  'valid': (conv, (3, 3, 4, 2)),
  'whole': (conv, (4, 4, 4, 2)),
  'transposed': (
    lambda x, v: jax.lax.conv_transpose(x, v, (2, 2), 'SAME'),
    (3, 3, 4, 2),
  ),
  'grouped': (
    lambda x, v: conv(x, v, feature_group_count=2) @ v[0, 0].T,
    (3, 3, 2, 4),
  ),
  'depthwise': (
    lambda x, v: conv(x, v, feature_group_count=4) @ v[0, 0].T,
    (3, 3, 1, 4),
  ),
  'rows': (lambda x, v: conv(x.transpose(0, 1, 3, 2), v), (3, 3, 4, 2)),
  'channels first': (
    lambda x, v: conv(
      x.transpose(0, 3, 1, 2), v, dimension_numbers=('NCHW', 'HWIO', 'NHWC')
    ),
    (3, 3, 4, 2),
  ),
  'dense': (lambda x, v: x.reshape(-1, 64) @ v, (64, 2)),
  'product of channels': (lambda x, v: x @ v, (4, 2)),
  'product of all': (lambda x, v: jnp.tensordot(x, v, 3), (4, 4, 4, 2)),
  'mean': (lambda x, v: x.mean((1, 2)) @ v, (4, 2)),
  'sum of all': (lambda x, v: x.sum((1, 2, 3))[:, None] @ v, (1, 2)),
  'sum of channels': (lambda x, v: x.sum(3) @ v, (4, 2)),
  'sum of each row': (lambda x, v: x.sum((2, 3)) @ v, (4, 2)),
  'pool': (
    lambda x, v: conv(
      jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), 'VALID'
      ),
      v,
    ),
    (2, 2, 4, 2),
  ),
  'running sum': (lambda x, v: conv(jnp.cumsum(x, 1), v), (3, 3, 4, 2)),
}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize('is_learned', [False, True])
def test_another_constant_at_each_position(reader, is_learned):
  """Channel 1 gets no input; its biases differ, so no other bias takes them."""
  read, shape = READERS[reader]
  params = draw(0, w=(3, 64), b=(64,), v=shape, c=(2,), s=(4, 4, 4))
  params['w'] = params['w'].at[:, 1::4].set(0)

  def fn(p, x):
    image = jnp.tanh(x @ p['w'] + p['b']).reshape(-1, 4, 4, 4)
    if is_learned:  # an image of params alone
      image = jnp.tanh(jnp.broadcast_to(p['s'], image.shape))
    y = read(image, p['v'])
    return y + p['c'] if y.shape[-1] == 2 else y

  check(fn, params, None, X)


def test_only_what_varies_stays():
  """Channel 1 is one constant, which goes to the bias; channel 2 is many."""
  params = draw(0, w=(3, 64), b=(64,), v=(3, 3, 4, 2), c=(2,))
  params['w'] = params['w'].reshape(3, 16, 4).at[..., 1:3].set(0).reshape(3, 64)
  params['b'] = params['b'].at[1::4].set(0.5)

  def fn(p, x):
    image = jnp.tanh(x @ p['w'] + p['b']).reshape(-1, 4, 4, 4)
    return conv(image, p['v']) + p['c']

  small = check(fn, params, None, X)
  assert small.params['w'].shape == (3, 48)
  assert small.certificate.removed['v'][2] == (1,)


@pytest.mark.parametrize('place', ['transposed', 'flattened', 'plain'])
def test_another_constant_for_each_expert(place):
  """Unit 2 is the same constant in all, but their weights for it differ."""
  params = draw(0, w=(3, 4, 5), b=(5,), v=(3, 5, 2), c=(2,))
  params['w'] = params['w'].at[:, :, 2].set(0)

  def fn(p, x):
    hidden = jnp.tanh(jnp.einsum('nbi,nij->nbj', x, p['w']) + p['b'])
    y = jnp.einsum('nbj,njk->nbk', hidden, p['v'])
    if place == 'transposed':
      y = y.transpose(1, 0, 2)
    elif place == 'flattened':
      y = y.reshape(-1, 2)
    return y + p['c']

  check(fn, params, None, jax.random.normal(jax.random.key(0), (3, 6, 4)))


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_weights_in_dead_features_must_be_finite(value):
  """A mask does not make them 0."""
  params = draw(0, w=(3, 4), v=(4, 2))
  params['w'] = params['w'].at[0, 1].set(value)
  masks = {'w': jnp.ones((3, 4)).at[:, 1].set(0), 'v': None}
  fn = lambda p, x: jnp.tanh(x @ p['w']) @ p['v']
  with pytest.raises(ValueError, match="finite, but 'w' is not"):
    scl_jax.compact(fn, params, masks, X, verify=False)


def test_negative_zeros_are_zeros():
  params = draw(0, w=(3, 4), v=(4, 2))
  params['w'] = params['w'].at[:, 1].set(-0.0)
  masks = {'w': None, 'v': -jnp.zeros((4, 2)).at[2].set(-1.0)}
  fn = lambda p, x: jnp.tanh(x @ p['w']) @ p['v']
  small = check(fn, params, masks, X)
  assert small.params['w'].shape == (3, 1)


def test_a_constant_that_depends_on_the_length():
  """200 or 201 positions: near, but not the same."""
  params = draw(0, w=(3, 4), b=(4,), v=(4, 2), c=(2,))
  params['w'] = params['w'].at[:, 1].set(0)
  fn = lambda p, x: jnp.tanh(x @ p['w'] + p['b']).sum(0) @ p['v'] + p['c']
  small = check(fn, params, None, jnp.ones((200, 3)), rtol=1e-4)
  assert small.params['w'].shape == (3, 3)
  with pytest.raises(ValueError, match="other constants belong into 'c'"):
    small.fn(small.params, jnp.ones((201, 3)))


def test_a_model_that_amplifies_rounding_is_not_blamed():
  """What float32 cannot show, float64 does."""
  rng = np.random.default_rng(0)
  params = {
    'w': rng.normal(size=(5, 64)),
    'b': rng.normal(size=64),
    'v': 1e4 * rng.normal(size=(64, 3)),
  }
  mask = np.repeat([[1.0, 0.0]], 32, 0).ravel() * np.ones((5, 1))
  params['w'] *= mask
  # Large numbers cancel.
  params['c'] = -np.tanh(params['b']) @ params['v']

  def fn(p, x):
    return jnp.tanh(x @ p['w'] + p['b']) @ p['v'] + p['c']

  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  x = jnp.asarray(1e-4 * rng.normal(size=(8, 5)), jnp.float32)
  masks = jax.tree.map(lambda _: None, params)
  masks['w'] = jnp.asarray(mask, jnp.float32)
  found = scl_jax.compact(fn, params, masks, x).certificate
  assert found.params_after < found.params_before
  assert found.difference64 < 1e-9
  assert 1e-5 < found.difference32 <= 4 * found.rounding


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_mixed_precision_is_not_blamed(dtype):
  """Constants are rounded as all that the network computes is."""
  params = draw(0, w=(3, 16), b=(16,), v=(16, 16), c=(16,), u=(16, 2))
  masks = masks_of(0, params) | {'b': None, 'c': None}

  def fn(p, x):
    p, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (p, x))
    h = jax.nn.relu(x @ p['w'] + p['b'])
    return jax.nn.relu(h @ p['v'] + p['c']) @ p['u']

  found = scl_jax.compact(fn, params, masks, X).certificate
  assert found.params_after < found.params_before
  # Against the same network in NumPy, in float64.
  p = jax.tree.map(
    lambda leaf: np.asarray(leaf, np.float64),
    scl_jax.apply_masks(params, masks),
  )
  h = np.maximum(np.asarray(X, np.float64) @ p['w'] + p['b'], 0)
  exact = np.maximum(h @ p['v'] + p['c'], 0) @ p['u']
  ours = np.asarray(fn(scl_jax.apply_masks(params, masks), X), np.float64)
  rounding = np.abs(ours - exact).max() / max(1, np.abs(exact).max())
  # The certificate looks at random inputs, too.
  assert found.rounding >= 0.99 * rounding
  assert max(found.difference64, found.difference32) <= 4 * found.rounding


@pytest.mark.parametrize(
  ('before', 'after', 'difference'),
  [
    ([np.inf, 4.0], [np.inf, 5.0], 0.25),
    ([np.inf, 4.0], [-np.inf, 4.0], np.inf),
    ([np.nan, 0.5], [np.nan, 1.0], 0.5),
    ([np.nan, 0.5], [0.5, np.nan], np.inf),
  ],
)
def test_the_certificate_sees_what_is_beside_infinities(
  before, after, difference
):
  arrays = np.array(before), np.array(after)
  found = certificates._difference(*([array] for array in arrays))
  assert found == difference
