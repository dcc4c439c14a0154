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
"""Tests of costs.py: hand counts, and XLA's own."""

import itertools

import equinox as eqx
from flax import linen as nn
from flax import nnx
import haiku as hk
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib
from scl_jax.macs import costs

pytestmark = pytest.mark.usefixtures('strict')


def _array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_dense():
  params = {'w': _array(3, 2), 'b': _array(2), 'unused': _array(4, 4)}
  fn = lambda p, x: x @ p['w'] + p['b'][None]
  found = costs(fn, params, _array(1, 3))
  assert found == {'w': 1.0, 'b': 0.0, 'unused': 0.0}
  assert all(isinstance(leaf, float) for leaf in jax.tree.leaves(found))
  assert costs(fn, params, _array(5, 3))['w'] == 5.0


def test_arrays_shapes_numbers_and_holes():
  params = {'w': jnp.ones((3, 2)), 's': 2.0, 'n': None}
  found = costs(
    lambda p, x: p['s'] * (x @ p['w']), params, np.ones((1, 3), 'f')
  )
  assert found == {'w': 1.0, 's': 0.0, 'n': None}


def test_transposes_and_the_other_side():
  params = {'w': _array(3, 2)}
  assert costs(lambda p, x: x @ p['w'].T, params, _array(4, 2)) == {'w': 4.0}
  assert costs(lambda p, x: p['w'] @ x, params, _array(2, 4)) == {'w': 4.0}


def _conv(stride=1, padding='SAME', **kwargs):
  return lambda p, x: lax.conv_general_dilated(
    x, p['w'], (stride, stride), padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **kwargs,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('fn', 'kernel', 'channels', 'expected'),
  [
    (_conv(), (3, 3, 4, 8), 4, 10 * 10),
    (_conv(padding='VALID'), (3, 3, 4, 8), 4, 8 * 8),
    (_conv(stride=2), (3, 3, 4, 8), 4, 5 * 5),
    (_conv(stride=2, padding='VALID'), (3, 3, 4, 8), 4, 4 * 4),
    (_conv(rhs_dilation=(2, 2), padding='VALID'), (3, 3, 4, 8), 4, 6 * 6),
    (_conv(rhs_dilation=(2, 2)), (3, 3, 4, 8), 4, 10 * 10),
    (_conv(feature_group_count=2), (3, 3, 2, 8), 4, 10 * 10),
    (_conv(feature_group_count=4), (3, 3, 1, 4), 4, 10 * 10),
    (_conv(feature_group_count=4), (3, 3, 1, 8), 4, 10 * 10),
    (_conv(), (1, 1, 4, 8), 4, 10 * 10),
  ],
)
def test_convolutions(fn, kernel, channels, expected):
  """Each entry is used once for each output position."""
  params = {'w': _array(*kernel)}
  assert costs(fn, params, _array(1, 10, 10, channels))['w'] == expected
  assert costs(fn, params, _array(3, 10, 10, channels))['w'] == 3 * expected


def test_other_layouts_of_convolutions():
  params = {'w': _array(8, 4, 3, 3)}  # OIHW, as Equinox has it
  found = costs(
    lambda p, x: lax.conv(x, p['w'], (1, 1), 'VALID'), params,
    _array(1, 4, 10, 10),
  )  # fmt: skip
  assert found['w'] == 64
  conv = nn.Conv(8, (3,), padding='CAUSAL')
  params = jax.eval_shape(conv.init, jax.random.key(0), _array(1, 10, 4))
  found = costs(conv.apply, params, _array(1, 10, 4))
  assert found == {'params': {'kernel': 10.0, 'bias': 0.0}}


def test_transposed_convolutions_do_not_count_the_holes():
  """Each entry is used once for each input position."""
  fn = lambda p, x: lax.conv_transpose(x, p['w'], (2, 2), 'SAME')
  params = {'w': _array(4, 4, 3, 8)}
  assert costs(fn, params, _array(1, 5, 5, 3))['w'] == 5 * 5


def test_attention():
  heads, depth, width, length = 2, 4, 8, 6
  model = nn.MultiHeadDotProductAttention(heads)
  x = _array(1, length, width)
  params = jax.eval_shape(model.init, jax.random.key(0), x)
  found = costs(model.apply, params, x)['params']
  # Once for each token; scores times values hold no params.
  expected = {'kernel': length, 'bias': 0.0}
  assert found == dict.fromkeys(['query', 'key', 'value', 'out'], expected)
  assert params['params']['query']['kernel'].shape == (width, heads, depth)


def test_einsum_of_three():
  params = {'a': _array(3, 4), 'b': _array(4, 5)}
  fn = lambda p, x: jnp.einsum('ti,ij,jk->tk', x, p['a'], p['b'])
  total = sum(
    cost * np.prod(leaf.shape)
    for _, leaf, cost in tree_lib.zip_leaves(
      params, costs(fn, params, _array(7, 3))
    )
  )
  # x (a b), as 60 < 84: a product of both, then one with the larger.
  assert total == 3 * 4 * 5 + 7 * 3 * 5


def test_low_rank_additions_belong_to_the_kernel():
  params = {'w': _array(9, 8), 'a': _array(9, 2), 'b': _array(2, 8)}
  fn = lambda p, x: x @ (p['w'] + p['a'] @ p['b'])
  # a @ b has 144 MACs, of which each has half.
  assert costs(fn, params, _array(5, 9)) == {'w': 5.0, 'a': 4.0, 'b': 4.5}


def test_a_leaf_used_twice_counts_twice():
  params = {'w': _array(3, 3)}
  fn = lambda p, x: jnp.tanh(x @ p['w']) @ p['w'].T
  assert costs(fn, params, _array(2, 3)) == {'w': 4.0}
  assert costs(lambda p, x: p['w'] @ p['w'], params, 0.0) == {'w': 3.0}


@jax.custom_jvp
def _same(w):
  return 2 * w


_same.defjvp(lambda primals, tangents: (_same(*primals), 2 * tangents[0]))


@jax.custom_vjp
def _also(w):
  return w.T


_also.defvjp(lambda w: (w.T, None), lambda _, g: (g.T,))


@pytest.mark.parametrize(
  'through',
  [
    lambda w: w,
    jax.jit(lambda w: w),
    jax.jit(lambda w: jax.jit(jnp.transpose)(w)),
    jax.checkpoint(lambda w: w * 2),
    _same,
    _also,
    lambda w: w.astype(jnp.bfloat16).astype(jnp.float32),
    lambda w: w.reshape(9).reshape(3, 3)[::-1],
    lambda w: jnp.where(np.eye(3) > 0, w, 0.0),
    lambda w: w * np.eye(3, dtype=np.float32),
    lambda w: w * np.ones((1, 3), np.float32),
    lambda w: (w - w.mean(0, keepdims=True)) / (1e-6 + w.std(0, keepdims=True)),
    lambda w: lax.stop_gradient(w),
  ],
)
def test_what_is_computed_from_a_leaf_is_the_leaf(through):
  params = {'w': _array(3, 3)}
  for call in (lambda f: f, jax.jit, jax.checkpoint):
    fn = call(lambda p, x: jax.nn.gelu(jax.nn.relu(x @ through(p['w']))))
    assert costs(fn, params, _array(2, 3)) == {'w': 2.0}


def test_masks_and_mask_params():
  params = {'w': _array(4, 3), 'v': _array(3, 2), 'b': _array(2)}
  m = jax.eval_shape(
    lambda p: masks_lib.init_mask_params(p, granularity='feature'),
    jax.eval_shape(lambda: jax.tree.map(lambda p: jnp.ones(p.shape), params)),
  )

  def fn(both, x):
    p = masks_lib.effective_params(*both)
    return x @ p['w'] @ p['v'] + p['b'][None]

  # Whatever comes first, the product is the weights'.
  found = costs(fn, (params, m), _array(1, 4))
  assert found[0] == {'w': 1.0, 'v': 1.0, 'b': 0.0}
  assert found[1] == {'w': 0.0, 'v': None, 'b': None}
  found = costs(lambda both, x: fn(both[::-1], x), (m, params), _array(1, 4))
  assert found[1] == {'w': 1.0, 'v': 1.0, 'b': 0.0}


def test_scales_of_the_data_are_no_connections():
  """x * scale is data: the next product is not the scale's."""
  params = {'scale': _array(3), 'w': _array(3, 2)}
  fn = lambda p, x: (x * p['scale'][None]) @ p['w']
  assert costs(fn, params, _array(1, 3)) == {'scale': 0.0, 'w': 1.0}
  model = nn.Sequential([nn.RMSNorm(), nn.Dense(2, use_bias=False)])
  params = jax.eval_shape(model.init, jax.random.key(0), _array(1, 3))
  found = costs(model.apply, params, _array(1, 3))['params']
  assert found == {'layers_0': {'scale': 0.0}, 'layers_1': {'kernel': 1.0}}


def test_scan_over_layers():
  params = {'w': _array(5, 3, 3), 'scale': _array(5, 3)}

  def fn(p, x):
    body = lambda h, q: (jnp.tanh((h * q['scale'][None]) @ q['w']), None)
    return lax.scan(body, x, p)[0]

  assert costs(fn, params, _array(2, 3)) == {'w': 2.0, 'scale': 0.0}


def test_scan_over_time_counts_each_step():
  params = {'w': _array(3, 3), 'scale': _array(3)}

  def fn(p, xs):
    def body(h, x):
      return jnp.tanh(x + (h * p['scale']) @ p['w']), None

    return lax.scan(body, jnp.zeros(3), xs)[0]  # a carry that becomes data

  assert costs(fn, params, _array(7, 3)) == {'w': 7.0, 'scale': 0.0}


def test_loops_and_branches():
  params = {'w': _array(3, 3), 'v': _array(3, 3)}

  def while_loop(p, x):
    return lax.while_loop(
      lambda c: c[1].sum() < 3, lambda c: (c[0] + 1, c[1] @ p['w']), (0, x)
    )

  assert costs(while_loop, params, _array(1, 3)) == {'w': 1.0, 'v': 0.0}
  fori = lambda p, x: lax.fori_loop(0, 4, lambda _, h: h @ p['w'], x)
  assert costs(fori, params, _array(1, 3)) == {'w': 4.0, 'v': 0.0}

  def cond(p, x):
    return lax.cond(
      x.sum() > 0, lambda: x @ p['w'], lambda: x @ p['v'] @ p['v']
    )

  assert costs(cond, params, _array(1, 3)) == {'w': 0.0, 'v': 2.0}


def test_static_slices_share_the_cost():
  params = {'w': _array(2, 3, 3), 'qkv': _array(3, 6)}

  def fn(p, x):
    q, k = jnp.split(p['qkv'], 2, 1)
    return x @ p['w'][0] + x @ q + x @ k

  assert costs(fn, params, _array(1, 3)) == {'w': 0.5, 'qkv': 1.0}


def test_kernels_that_are_joined_share_by_their_sizes():
  params = {'a': _array(4, 3), 'b': _array(4, 5), 'mask': _array(4, 8)}

  def fused(p, x):
    return x @ (p['mask'] * jnp.concatenate([p['a'], p['b']], axis=1))

  found = costs(fused, params, _array(6, 4))
  assert found == {'a': 6.0, 'b': 6.0, 'mask': 0.0}

  def written(p, x):
    kernel = jnp.zeros((4, 8)).at[:, :3].set(p['a']).at[:, 3:].set(p['b'])
    return x @ kernel

  assert costs(written, params, _array(6, 4)) == found


def test_lstm_cells_whose_kernels_are_joined_cost_as_others():
  x = jnp.ones((1, 7, 8))
  found = []
  for cell in (nn.LSTMCell(5), nn.OptimizedLSTMCell(5)):
    model = nn.RNN(cell)
    params = model.init(jax.random.key(0), x)['params']
    fn = lambda p, x, model=model: model.apply({'params': p}, x)
    found.append(costs(fn, params, x))
  assert found[0] == found[1]
  assert set(jax.tree.leaves(found[0])) == {0.0, 7.0}


def test_vmap_is_a_batch():
  params = {'w': _array(3, 2)}
  fn = lambda p, x: jax.vmap(lambda v: v @ p['w'])(x)
  assert costs(fn, params, _array(6, 3)) == {'w': 6.0}


def test_embeddings_are_looked_up():
  model = nn.Embed(10, 4)
  tokens = jax.ShapeDtypeStruct((1, 3), jnp.int32)
  params = jax.eval_shape(model.init, jax.random.key(0), tokens)
  assert jax.tree.leaves(costs(model.apply, params, tokens)) == [0.0]


def test_nothing_is_computed():
  params = {'w': _array(50_000, 50_000)}
  fn = lambda p, x: x @ p['w']
  assert costs(fn, params, _array(1, 50_000)) == {'w': 1.0}


# An 8-16-4 net in four libraries.

_KEY = jax.random.key(0)
_X = jnp.ones((1, 8))


def _linen():
  model = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(4)])
  return model.apply, model.init(_KEY, _X)


def _nnx():
  rngs = nnx.Rngs(0)
  model = nnx.Sequential(
    nnx.Linear(8, 16, rngs=rngs), nnx.relu, nnx.Linear(16, 4, rngs=rngs)
  )
  graph, params = nnx.split(model)
  return lambda p, x: nnx.merge(graph, p)(x), params


def _equinox():
  model = eqx.nn.MLP(8, 4, 16, 1, key=_KEY)
  params, static = eqx.partition(model, eqx.is_inexact_array)
  return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params


def _haiku():
  model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([16, 4])(x)))
  return model.apply, model.init(_KEY, _X)


@pytest.mark.parametrize('library', [_linen, _nnx, _equinox, _haiku])
def test_libraries_agree(library):
  fn, params = library()
  rows = tree_lib.zip_leaves(params, costs(fn, params, _X))
  counts = {leaf.ndim: set() for _, leaf, _ in rows}
  for _, leaf, cost in rows:
    counts[leaf.ndim].add(cost)
  assert counts == {1: {0.0}, 2: {1.0}}
  total = sum(leaf.size * cost for _, leaf, cost in rows)
  assert total == 8 * 16 + 16 * 4


@pytest.mark.parametrize('batch', [1, 32])
def test_against_xla(batch):
  sizes = [784, 300, 100, 10]
  params = [
    (jnp.ones((n, m)), jnp.ones((1, m))) for n, m in itertools.pairwise(sizes)
  ]

  def fn(p, x):
    for w, b in p[:-1]:
      x = jax.nn.relu(x @ w + b)
    return x @ p[-1][0] + p[-1][1]

  x = jnp.ones((batch, 784))
  flops = jax.jit(fn).lower(params, x).compile().cost_analysis()['flops']
  found = costs(fn, params, x)
  total = sum(
    leaf.size * cost for _, leaf, cost in tree_lib.zip_leaves(params, found)
  )
  assert total == batch * 266_200
  np.testing.assert_allclose(total, flops / 2, rtol=0.02)


def test_convolutions_against_xla():
  # VALID, as XLA leaves padding out.
  params = {'w': jnp.ones((3, 3, 8, 16))}
  fn, x = _conv(2, 'VALID'), jnp.ones((2, 17, 17, 8))
  flops = jax.jit(fn).lower(params, x).compile().cost_analysis()['flops']
  total = params['w'].size * costs(fn, params, x)['w']
  np.testing.assert_allclose(total, flops / 2, rtol=0.02)
