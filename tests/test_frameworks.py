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
"""The two lines in other people's code: Linen, NNX, Equinox, Haiku, a dict."""

import equinox as eqx
from flax import linen as nn
from flax import nnx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import tree as tree_lib

INPUTS = jax.random.normal(jax.random.key(0), (32, 8))
TARGETS = jnp.sin(INPUTS[:, :2])


def optimizer():
  return scl_jax.sparsify(
    optax.adam(1e-2),
    scl_jax.scl(target_density=0.3, freeze_step=40),
  )


def squared_error(outputs):
  return jnp.mean((outputs - TARGETS) ** 2)


def check(arrays, masks, prunable_paths):
  """Pruned entries are 0, others are not, and 30 % of connections are live."""
  seen = []
  for path, leaf, mask in tree_lib.zip_leaves(arrays, masks):
    if mask is not None:
      seen.append(path)
      np.testing.assert_array_equal(np.asarray(leaf) == 0, mask == 0)
  assert seen == prunable_paths
  total = sum(m.size for m in jax.tree.leaves(masks))
  live = sum(int(m.sum()) for m in jax.tree.leaves(masks))
  assert live == round(0.3 * total)


def train_functional(loss, params):
  tx = optimizer()
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  first = loss(params)
  for _ in range(60):
    params, state = step(params, state)
  assert loss(params) < first
  return params, scl_jax.get_masks(state)


def test_plain_dict():
  params = {
    'w1': jnp.ones((8, 6)) * 0.1,
    'b1': jnp.zeros(6),
    'w2': jnp.ones((6, 2)),
  }
  loss = lambda p: squared_error(jnp.tanh(INPUTS @ p['w1'] + p['b1']) @ p['w2'])
  check(*train_functional(loss, params), ['w1', 'w2'])


def test_linen():
  model = nn.Sequential([nn.Dense(6), nn.LayerNorm(), nn.tanh, nn.Dense(2)])
  params = model.init(jax.random.key(1), INPUTS)
  loss = lambda p: squared_error(model.apply(p, INPUTS))
  check(
    *train_functional(loss, params),
    ['params/layers_0/kernel', 'params/layers_3/kernel'],
  )


def test_linen_attention_and_embedding():
  class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      x = nn.Embed(11, 8)(tokens)
      x = nn.MultiHeadDotProductAttention(num_heads=2)(x, x)
      return nn.Dense(2)(x.mean(axis=1))

  model = Model()
  tokens = jax.random.randint(jax.random.key(1), (32, 5), 0, 11)
  params = model.init(jax.random.key(1), tokens)['params']
  loss = lambda p: squared_error(model.apply({'params': p}, tokens))
  attention = 'MultiHeadDotProductAttention_0'
  params, masks = train_functional(loss, params)
  check(
    params,
    masks,
    [
      'Dense_0/kernel',
      'Embed_0/embedding',
      f'{attention}/key/kernel',
      f'{attention}/out/kernel',
      f'{attention}/query/kernel',
      f'{attention}/value/kernel',
    ],
  )


def test_haiku():
  transformed = hk.without_apply_rng(
    hk.transform(lambda x: hk.nets.MLP([6, 2], activation=jnp.tanh)(x))
  )
  params = transformed.init(jax.random.key(1), INPUTS)
  loss = lambda p: squared_error(transformed.apply(p, INPUTS))
  check(
    *train_functional(loss, params), ['mlp/~/linear_0/w', 'mlp/~/linear_1/w']
  )


def test_equinox():
  model = eqx.nn.MLP(8, 2, 6, 1, activation=jnp.tanh, key=jax.random.key(1))
  tx = optimizer()
  state = tx.init(eqx.filter(model, eqx.is_inexact_array))

  @eqx.filter_jit
  def step(model, state):
    grads = eqx.filter_grad(lambda m: squared_error(jax.vmap(m)(INPUTS)))(model)
    updates, state = tx.update(
      grads, state, eqx.filter(model, eqx.is_inexact_array)
    )
    return eqx.apply_updates(model, updates), state

  for _ in range(60):
    model, state = step(model, state)
  check(
    eqx.filter(model, eqx.is_inexact_array),
    scl_jax.get_masks(state),
    ['layers/0/weight', 'layers/1/weight'],
  )


def test_equinox_features_are_rows():
  model = eqx.nn.Linear(8, 2, key=jax.random.key(1))
  params = eqx.filter(model, eqx.is_inexact_array)
  mask_params = scl_jax.init_mask_params(params, granularity='feature')
  assert mask_params.weight.shape == (2, 1)


def test_equinox_model_with_its_functions_is_explained():
  model = eqx.nn.MLP(8, 2, 6, 1, key=jax.random.key(1))
  with pytest.raises(ValueError, match=r'eqx\.filter'):
    optimizer().init(model)


class NnxModel(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List(
      [nnx.Linear(8, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)]
    )
    self.norm = nnx.BatchNorm(6, rngs=rngs)

  def __call__(self, x):
    return self.layers[1](jnp.tanh(self.norm(self.layers[0](x))))


@pytest.mark.parametrize(
  ('target', 'prunable'),
  [(0.3, None), ({'layers/.*': 0.3}, 'layers/.*/kernel')],
)
def test_nnx(target, prunable):
  model = NnxModel(nnx.Rngs(0))
  tx = scl_jax.sparsify(
    optax.adam(1e-2),
    scl_jax.scl(target_density=target, freeze_step=40, prunable=prunable),
  )
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

  @nnx.jit
  def step(model, optimizer):
    grads = nnx.grad(lambda m: squared_error(m(INPUTS)))(model)
    optimizer.update(model, grads)

  for _ in range(60):
    step(model, optimizer)
  masks = scl_jax.get_masks(optimizer.opt_state)
  check(
    nnx.as_pure(nnx.state(model, nnx.Param)),
    nnx.as_pure(masks),
    ['layers/0/kernel', 'layers/1/kernel'],
  )
  assert scl_jax.density(masks) == pytest.approx(0.3, abs=0.01)
  assert 'kernel' in scl_jax.summary(nnx.state(model, nnx.Param), masks)
  assert scl_jax.diagnose(optimizer.opt_state, 0) == []


def test_nnx_findings_name_no_layer_where_there_is_one_target():
  model = nnx.Linear(8, 6, rngs=nnx.Rngs(0))
  rule = scl_jax.scl(target_density=0.3, freeze_step=40)
  optimizer = nnx.Optimizer(
    model, scl_jax.sparsify(optax.sgd(0.1), rule), wrt=nnx.Param
  )
  (finding,) = scl_jax.diagnose(optimizer.opt_state, 10)
  assert 'target of 30 % is not made exact' in finding.message
