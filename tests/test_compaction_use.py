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
"""Tests of compaction: frameworks, transformations, what must stay."""

from dead_units import KEEP
from dead_units import X
from dead_units import close
from dead_units import net
import equinox as eqx
from flax import linen as nn
from flax import nnx
import haiku as hk
import jax
from jax import export
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax


def test_constants_go_into_the_bias():
  fn, params = net()
  small = scl_jax.compact(fn, params, None, X)
  assert small.params['w'].shape == (6, 3)
  gone = jnp.array([1, 4])
  constant = jnp.tanh(params['b'])[gone] @ params['v'][gone]
  close(small.params['c'], params['c'] + constant)


def test_a_masked_bias_takes_no_constant():
  fn, params = net()
  masks = {'w': None, 'b': None, 'v': None, 'c': jnp.array([1.0, 0.0])}
  small = scl_jax.compact(fn, params, masks, X)
  assert small.params['w'].shape == (6, 5)


def test_jit_grad_vmap_export():
  fn, params = net(jax.nn.relu)
  small = scl_jax.compact(fn, params, None, X)
  close(jax.jit(small.fn)(small.params, X[:1]), fn(params, X[:1]))
  close(
    jax.vmap(small.fn, (None, 0))(small.params, X[:, None])[:, 0],
    fn(params, X),
  )
  loss = lambda f: lambda p: (f(p, X) ** 2).sum()
  dense = jax.grad(loss(fn))(params)
  ours = jax.grad(loss(small.fn))(small.params)
  for name, axes in zip(sorted(params), small.fn.kept, strict=True):
    close(ours[name], np.asarray(dense[name])[np.ix_(*axes)])
  close(
    jax.grad(lambda x: small.fn(small.params, x).sum())(X),
    jax.grad(lambda x: fn(params, x).sum())(X),
  )
  (batch,) = export.symbolic_shape('batch')
  struct = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)
  exported = export.export(jax.jit(small.fn))(
    jax.tree.map(struct, small.params),
    jax.ShapeDtypeStruct((batch, 6), jnp.float32),
  )
  close(exported.call(small.params, X[:3]), fn(params, X[:3]))


def test_checkpoints_stay():
  fn, params = net()
  small = scl_jax.compact(jax.checkpoint(fn), params, None, X)
  assert small.params['w'].shape == (6, 3)
  jaxpr = jax.make_jaxpr(small.fn)(small.params, X)
  (eqn,) = jaxpr.eqns
  assert eqn.primitive.name in ('checkpoint', 'remat', 'remat2')


@jax.custom_jvp
def odd_jvp(x):
  return jnp.tanh(x)


odd_jvp.defjvp(lambda x, t: (jnp.tanh(x[0]), 7.0 * t[0]))


@jax.custom_vjp
def odd_vjp(x):
  return jnp.tanh(x)


odd_vjp.defvjp(lambda x: (jnp.tanh(x), None), lambda _, g: (7.0 * g,))


@pytest.mark.parametrize('activation', [odd_jvp, odd_vjp])
def test_custom_derivatives_stay(activation):
  fn, params = net(activation)
  small = scl_jax.compact(fn, params, None, X)
  assert small.params['w'].shape == (6, 3)
  dense = jax.grad(lambda p: fn(p, X).sum())(params)['w']
  ours = jax.jit(jax.grad(lambda p: small.fn(p, X).sum()))(small.params)['w']
  close(ours, dense[:, KEEP > 0])
  right = 7 * jnp.outer(X.sum(0), params['v'].sum(1))
  close(ours, right[:, KEEP > 0], rtol=1e-4)


def test_what_is_not_understood_stays():
  _, params = net()
  fn = lambda p, x: jnp.sort(x @ p['w'] + p['b'], 1) @ p['v']
  small = scl_jax.compact(fn, params, None, X)
  assert small.params['w'].shape == (6, 5)

  def looped(p, x):
    body = lambda h: jnp.tanh(h + p['b'])
    return lax.while_loop(lambda h: h.sum() > 0, body, x @ p['w']) @ p['v']

  small = scl_jax.compact(looped, params, None, X)
  assert small.params['w'].shape == (6, 5)


def test_recurrent_units_go():
  """Unit 1 is read by nothing but itself; unit 2 is 0 at all times."""
  rng = np.random.default_rng(0)
  shapes = {'u': (3, 4), 'w': (4, 4), 'b': (4,), 'v': (4, 2)}
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }
  masks = {name: jnp.ones(shape) for name, shape in shapes.items()}
  masks['v'] = masks['v'].at[1].set(0)
  masks['w'] = masks['w'].at[1].set(0).at[1, 1].set(1).at[:, 2].set(0)
  masks['u'] = masks['u'].at[:, 2].set(0)
  masks['b'] = masks['b'].at[2].set(0)

  def fn(p, x):
    def step(h, row):
      h = jnp.tanh(row @ p['u'] + h @ p['w'] + p['b'])
      return h, h @ p['v']

    return lax.scan(step, jnp.zeros((x.shape[1], 4)), x)[1]

  small = scl_jax.compact(fn, params, masks, jnp.ones((7, 5, 3)))
  assert small.params['w'].shape == (2, 2)
  x = jnp.asarray(rng.normal(size=(9, 2, 3)), jnp.float32)  # longer, fewer
  close(small.fn(small.params, x), fn(scl_jax.apply_masks(params, masks), x))


@pytest.mark.parametrize(('padding', 'stays'), [('VALID', 3), ('SAME', 5)])
def test_constants_and_padding(padding, stays):
  """With zero padding a constant channel is none at the border."""
  rng = np.random.default_rng(0)
  params = {
    'w': jnp.asarray(rng.normal(size=(3, 3, 1, 5)) * KEEP, jnp.float32),
    'b': jnp.asarray(rng.normal(size=5), jnp.float32),
    'v': jnp.asarray(rng.normal(size=(3, 3, 5, 2)), jnp.float32),
    'c': jnp.zeros(2),
  }
  conv = lambda x, w: lax.conv_general_dilated(
    x, w, (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  fn = lambda p, x: conv(jnp.tanh(conv(x, p['w']) + p['b']), p['v']) + p['c']
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
  small = scl_jax.compact(fn, params, None, x)
  assert small.params['w'].shape[-1] == stays
  # A channel that is 0 goes all the same.
  params['b'] = params['b'] * KEEP
  small = scl_jax.compact(fn, params, None, x)
  assert small.params['w'].shape[-1] == 3


def test_grouped_convolutions_lose_whole_groups():
  rng = np.random.default_rng(0)
  params = {
    'w': jnp.asarray(rng.normal(size=(1, 1, 2, 6)), jnp.float32),
    'g': jnp.asarray(rng.normal(size=(3, 3, 2, 9)), jnp.float32),
    'v': jnp.asarray(rng.normal(size=(9, 2)), jnp.float32),
  }
  params['v'] = params['v'].at[:3].set(0).at[4].set(0)  # a group, and a part

  def fn(p, x):
    dims = ('NHWC', 'HWIO', 'NHWC')
    x = lax.conv_general_dilated(
      x, p['w'], (1, 1), 'SAME', dimension_numbers=dims
    )
    x = lax.conv_general_dilated(
      x, p['g'], (1, 1), 'SAME', feature_group_count=3, dimension_numbers=dims
    )
    return x.mean((1, 2)) @ p['v']

  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2))
  small = scl_jax.compact(fn, params, None, x)
  shapes = jax.tree.map(jnp.shape, small.params)
  assert shapes == {'w': (1, 1, 2, 4), 'g': (3, 3, 2, 6), 'v': (6, 2)}


@pytest.mark.parametrize('dead', ['table', 'reader', 'none'])
def test_embeddings(dead):
  rng = np.random.default_rng(0)
  params = {
    'embedding': jnp.asarray(rng.normal(size=(7, 5)), jnp.float32),
    'w': jnp.asarray(rng.normal(size=(5, 2)), jnp.float32),
  }
  if dead == 'table':
    params['embedding'] *= KEEP
  elif dead == 'reader':
    params['w'] *= KEEP[:, None]
  fn = lambda p, t: p['embedding'][t] @ p['w']
  tokens = jnp.array([[0, 1, 6], [2, 2, 3]])
  small = scl_jax.compact(fn, params, None, tokens)
  width = 5 if dead == 'none' else 3
  assert small.params['embedding'].shape == (7, width)


def test_unused_inputs_go_when_asked():
  fn, params = net()
  params['w'] = params['w'].at[jnp.array([0, 3, 4])].set(0)
  assert scl_jax.compact(fn, params, None, X).params['w'].shape == (6, 3)
  small = scl_jax.compact(fn, params, None, X, drop_inputs=True)
  assert small.params['w'].shape == (3, 3)
  close(small.fn(small.params, X[:2]), fn(params, X[:2]))


def _linen():
  model = nn.Sequential([nn.Dense(5), nn.tanh, nn.Dense(2)])
  params = model.init(jax.random.key(1), X)
  return model.apply, params, lambda p: p['params']['layers_0']


def _nnx():
  rngs = nnx.Rngs(0)
  model = nnx.Sequential(
    nnx.Linear(6, 5, rngs=rngs), jnp.tanh, nnx.Linear(5, 2, rngs=rngs)
  )
  graph, state = nnx.split(model)
  params = nnx.to_pure_dict(state)

  def fn(p, x):
    full = jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(p))
    return nnx.merge(graph, full)(x)

  return fn, params, lambda p: p['layers'][0]


def _haiku():
  model = hk.without_apply_rng(
    hk.transform(lambda x: hk.nets.MLP([5, 2], activation=jnp.tanh)(x))
  )
  return (
    model.apply,
    model.init(jax.random.key(1), X),
    lambda p: p['mlp/~/linear_0'],
  )


def _equinox():
  model = eqx.nn.MLP(6, 2, 5, 1, activation=jnp.tanh, key=jax.random.key(1))
  params, static = eqx.partition(model, eqx.is_inexact_array)
  fn = lambda p, x: jax.vmap(eqx.combine(p, static))(x)
  return fn, params, lambda p: p.layers[0]


@pytest.mark.parametrize('library', [_linen, _nnx, _haiku, _equinox])
def test_libraries(library):
  fn, params, first = library()
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
  )
  axis = 0 if library is _equinox else 1
  shape = (5, 1) if library is _equinox else (1, 5)
  masks = jax.tree.map(
    lambda p: (
      jnp.broadcast_to(KEEP.reshape(shape), p.shape) if p.size == 30 else None
    ),
    params,
  )
  small = scl_jax.compact(fn, params, masks, X)
  kernels = [p for p in jax.tree.leaves(first(small.params)) if p.ndim == 2]
  assert kernels[0].shape[axis] == 3
  close(
    small.fn(small.params, X[:3]),
    fn(scl_jax.apply_masks(params, masks), X[:3]),
  )


def test_strict_promotion():
  _, params = net()
  strict = lambda p, x: jnp.tanh(x @ p['w'] + p['b'][None]) @ p['v']
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.numpy_rank_promotion('raise'),
  ):
    small = scl_jax.compact(strict, params, None, X)
    assert small.fn(small.params, X[:1]).shape == (1, 2)


def test_errors():
  fn, params = net()
  with pytest.raises(ValueError, match="finite, but 'w'"):
    scl_jax.compact(fn, {**params, 'w': params['w'] / 0}, None, X)
  with pytest.raises(ValueError, match='do not fit'):
    scl_jax.compact(fn, params, {'x': KEEP}, X)
  small = scl_jax.compact(fn, params, None, X, verify=False)
  with pytest.raises(ValueError, match=r"'b' is \(5,\), expected \(3,\)"):
    small.fn(params, X)
  with pytest.raises(ValueError, match='structure of the compact model'):
    small.fn({'w': params['w']}, X)
  factored = {'w': jnp.ones(5)}
  with pytest.raises(ValueError, match="cannot be cut like 'w'"):
    small.carry(factored)


def test_another_shape_where_it_does_not_hold():
  """Positions beyond the example's may use what it did not."""
  params = {'pos': jnp.zeros((8, 3)).at[5:, 1].set(1.0), 'w': jnp.ones((3, 2))}
  fn = lambda p, x: (x[:, :, None] * 0 + p['pos'][: x.shape[1]]) @ p['w']
  short, long = jnp.ones((2, 4)), jnp.ones((2, 8))
  small = scl_jax.compact(fn, params, None, short)
  close(small.fn(small.params, short[:1]), fn(params, short[:1]))
  if small.certificate.removed:
    with pytest.raises(ValueError, match='compact the model again'):
      small.fn(small.params, long)
