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
"""Tests of compaction where constants depend on the dtype, or fn knows one."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


def mlp(activation, bias, *, dtype=jnp.float32):
  """A net whose hidden unit 2 has no inputs, and its params and masks."""
  rng = np.random.default_rng(1)
  params = {
    'w': rng.normal(size=(3, 5)),
    'b': np.full(5, bias),
    'v': rng.normal(size=(5, 2)),
    'c': rng.normal(size=2),
  }
  masks = {'w': np.ones((3, 5)), 'v': np.ones((5, 2)), 'b': None, 'c': None}
  masks['w'][:, 2] = 0

  def fn(p, x):
    return activation(x @ p['w'] + p['b']) @ p['v'] + p.get('c', 0)

  params, masks = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, masks))
  return fn, params, masks


UNDERFLOWING = {
  'silu': (jax.nn.silu, -100.0, jnp.float32),
  'gelu in bfloat16': (jax.nn.gelu, -3.5, jnp.bfloat16),
}


@pytest.mark.parametrize('has_bias', [True, False])
@pytest.mark.parametrize('name', UNDERFLOWING)
def test_constants_that_underflow(name, has_bias):
  """In float64 they are not 0: the unit goes all the same."""
  activation, bias, dtype = UNDERFLOWING[name]
  fn, params, masks = mlp(activation, bias, dtype=dtype)
  if not has_bias:
    del params['c'], masks['c']
  small = scl_jax.compact(fn, params, masks, X.astype(dtype))
  assert small.params['w'].shape == (3, 4)
  found = small.certificate
  assert found.difference64 is not None
  assert found.rounding is not None
  assert found.difference64 <= max(1e-9, 4 * found.rounding)


def _asserts(p, x):
  assert x.dtype == jnp.float32
  return x @ p['w']


def _raises(p, x):
  if p['w'].dtype != jnp.float32:
    raise RuntimeError('float32 only')
  return x @ p['w']


def _mixes(p, x):
  return lax.dot(x.astype(jnp.float32), p['w'])


@pytest.mark.parametrize('first', [_asserts, _raises, _mixes])
def test_functions_of_one_dtype(first):
  """They are run in float64 all the same, primitive by primitive."""
  _, params, masks = mlp(jnp.tanh, 1.0)

  def fn(p, x):
    return jnp.tanh(first(p, x) + p['b']) @ p['v'] + p['c']

  small = scl_jax.compact(fn, params, masks, X)
  assert small.params['w'].shape == (3, 4)
  found = small.certificate
  assert found.difference32 is not None
  assert found.difference32 < 1e-6
  # The constant that went into the bias was rounded to float32.
  assert found.difference64 is not None
  assert found.difference64 < 1e-6
  assert found.rounding is not None
  assert 1e-9 < found.rounding < 1e-6


def test_what_knows_no_float64_is_compared_as_it_is():
  _, params, masks = mlp(jnp.tanh, 1.0)

  def fn(p, x):
    x = _mixes(p, x)
    is_odd = lax.bitcast_convert_type(x, jnp.uint32) & 1 == 1
    return jnp.where(is_odd, x, 2 * x) @ p['v']

  found = scl_jax.compact(fn, params, masks, X).certificate
  assert found.difference64 is None
  assert found.difference32 == 0


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('bias', [-3.0, -0.3, 0.4])
def test_small_params_may_be_cast(bias, dtype):
  """Constants rounded in 16 bits are others than those in the bias, or 0."""
  fn, params, masks = mlp(jax.nn.gelu, bias)
  small = scl_jax.compact(fn, params, masks, X, verify=False)
  assert small.params['w'].shape == (3, 4)
  cast = jax.tree.map(lambda leaf: leaf.astype(dtype), small.params)
  for count in (4, 1):
    x = X[:count].astype(dtype)
    ours = small.fn(cast, x)
    assert ours.dtype == dtype
    masked = scl_jax.apply_masks(params, masks)
    expected = fn(masked, X[:count])
    np.testing.assert_allclose(
      np.asarray(ours, np.float32), expected, atol=0.05
    )


def test_a_cast_hides_no_other_shape():
  """A mean over a length other than the example's has another constant."""
  _, params, masks = mlp(jnp.tanh, 1.0)

  def fn(p, x):
    hidden = jnp.tanh(x @ p['w'] + p['b']).sum(1)
    return hidden @ p['v'] + p['c']

  small = scl_jax.compact(fn, params, masks, X[None])
  assert small.params['w'].shape == (3, 4)
  cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), small.params)
  small.fn(cast, X[None].astype(jnp.bfloat16))
  with pytest.raises(ValueError, match="other constants belong into 'c'"):
    small.fn(cast, X[None, :2].astype(jnp.bfloat16))
