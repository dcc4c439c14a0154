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
"""Steps in blocks are the steps themselves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import blocks
from scl_jax.graph import nodes

SHAPES = {
  'dense/kernel': (13, 11),
  'conv/kernel': (3, 3, 5, 7),
  'wide/kernel': (1, 210),
  'small/kernel': (4, 5),
  'dense/bias': (11,),
}
RULES = {
  'scl': lambda: scl_jax.scl(penalty=0.1),
  'scl, features': lambda: scl_jax.scl(penalty=0.1, granularity='feature'),
  'scl, blocks': lambda: scl_jax.scl(penalty=0.1, granularity=(1, 1)),
  'scl, norm every step': lambda: scl_jax.scl(
    penalty=0.1, normalizer=scl_jax.normalize_by_feature_norm(0.9)
  ),
  'scl, target': lambda: scl_jax.scl(target_density=0.2, freeze_step=6),
  'scl, bfloat16': lambda: scl_jax.scl(penalty=0.1, mask_dtype=jnp.bfloat16),
  'magnitude': lambda: scl_jax.gradual_magnitude(
    0.3, begin_step=1, end_step=5, update_every=2
  ),
  'rigl': lambda: scl_jax.rigl(
    0.3, key=jax.random.key(0), update_every=2, end_step=6
  ),
  'soft threshold': lambda: scl_jax.soft_threshold(0.1, init_value=-1.0),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(blocks, '_LARGE', 64)
  monkeypatch.setattr(blocks, '_BLOCK', 24)


def make_params(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), len(SHAPES))
  return {
    path: jax.random.normal(key, shape, dtype)
    for key, (path, shape) in zip(keys, SHAPES.items(), strict=True)
  }


def gradient(params):
  return jax.tree.map(jnp.sin, params)


def plain_step(tx, grads, state, params, **extra_args):
  updates, state = tx.update(grads, state, params, **extra_args)
  return optax.apply_updates(params, updates), state


def train(step, tx, params, steps):
  @jax.jit
  def train_step(params, state):
    return step(tx, gradient(params), state, params)

  state = tx.init(params)
  for _ in range(steps):
    params, state = train_step(params, state)
  return params, state


def assert_same(tx, params, steps=8, rtol=1e-5):
  chex.assert_trees_all_close(
    train(scl_jax.step_in_blocks, tx, params, steps),
    train(plain_step, tx, params, steps),
    rtol=rtol,
    atol=rtol / 100,
  )


@pytest.mark.parametrize('name', RULES)
def test_rules(name):
  tx = scl_jax.sparsify(optax.adam(0.03), RULES[name]())
  assert_same(tx, make_params())


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.adam(0.03),
    optax.chain(optax.clip_by_global_norm(1.0), optax.lion(0.01)),
    optax.contrib.muon(0.01),
    optax.adafactor(0.01, min_dim_size_to_factor=4),
    optax.lamb(0.01),
    optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 3),
    optax.partition(
      {'a': optax.adamw(0.01), 'b': optax.sgd(0.1)},
      {path: 'ab'[len(shape) < 3] for path, shape in SHAPES.items()},
    ),
  ],
  ids=['adam', 'lion', 'muon', 'adafactor', 'lamb', 'MultiSteps', 'partition'],
)
def test_optimizers(optimizer):
  assert_same(optimizer, make_params())
  tx = scl_jax.sparsify(optimizer, scl_jax.scl(penalty=0.1))
  assert_same(tx, make_params())


def test_bfloat16():
  """Later, masks of equal weights would differ by their rounding."""
  tx = scl_jax.sparsify(optax.adam(0.03), scl_jax.scl(penalty=0.1))
  rtol = float(jnp.finfo(jnp.bfloat16).eps)
  assert_same(tx, make_params(jnp.bfloat16), steps=2, rtol=rtol)


@pytest.mark.parametrize('shape', [(64,), (2, 3, 17), (5, 1, 40), (9, 200, 1)])
def test_blocks_cover_an_array_once(shape):
  """In place, an entry that two blocks share would be updated twice."""
  axis, rows = blocks._blocks(shape)
  assert 1 <= rows <= shape[axis]
  assert rows == 1 or rows * np.prod(shape) <= 24 * shape[axis]
  params = {'w': jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)}
  tx = optax.sgd(1.0, momentum=0.5)
  step = jax.jit(lambda p, s: scl_jax.step_in_blocks(tx, p, s, p))
  found, state = step(params, tx.init(params))
  found, _ = step(found, state)
  # p - p = 0, and then the momentum: 0 - p / 2.
  np.testing.assert_allclose(found['w'], -params['w'] / 2)


def elementwise_sizes(jaxpr):
  """Sizes of what is computed outside of loops and branches."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name in ('jit', 'pjit', 'custom_jvp_call'):
      name = 'call_jaxpr' if 'call_jaxpr' in eqn.params else 'jaxpr'
      yield from elementwise_sizes(eqn.params[name].jaxpr)
    elif eqn.primitive.name not in ('while', 'scan', 'cond'):
      yield from (v.aval.size for v in eqn.outvars)


def test_nothing_large_is_left_outside_of_the_blocks():
  """Here a block has 24 entries, and a large array 64 and more."""
  params = {'kernel': jnp.ones((24, 12))}
  tx = scl_jax.sparsify(optax.adam(0.03), scl_jax.scl(penalty=0.1))
  jaxpr = jax.make_jaxpr(scl_jax.step_in_blocks, static_argnums=0)(
    tx, params, tx.init(params), params
  )
  assert max(elementwise_sizes(jaxpr.jaxpr)) <= 24
  plain = jax.make_jaxpr(plain_step, static_argnums=0)(
    tx, params, tx.init(params), params
  )
  assert max(elementwise_sizes(plain.jaxpr)) == 24 * 12


def test_blocks_are_written_where_they_were_read(monkeypatch):
  monkeypatch.setattr(blocks, '_BLOCK', 2**10)
  params = {'kernel': jnp.ones((512, 256))}
  tx = scl_jax.sparsify(optax.adam(0.03), scl_jax.scl(penalty=0.1))

  def step(params, state, grads):
    return scl_jax.step_in_blocks(tx, grads, state, params)

  compiled = (
    jax.jit(step, donate_argnums=(0, 1))
    .lower(params, tx.init(params), params)
    .compile()
  )
  memory = compiled.memory_analysis()
  whole = params['kernel'].nbytes
  # params, weights, mask variables and two moments.
  assert memory.alias_size_in_bytes >= 5 * whole
  assert ' copy(f32[512,256]' not in compiled.as_text()


def test_vmap_over_seeds():
  tx = scl_jax.sparsify(optax.adam(0.03), scl_jax.scl(penalty=0.1))
  params = jax.tree.map(lambda p: jnp.stack([p, -p, 2 * p]), make_params())
  state = jax.vmap(tx.init)(params)

  def run(step):
    step_of_seed = lambda p, s: step(tx, gradient(p), s, p)
    return jax.jit(jax.vmap(step_of_seed))(params, state)

  chex.assert_trees_all_close(
    run(scl_jax.step_in_blocks), run(plain_step), rtol=1e-6
  )


def test_derivatives_are_those_of_the_step():
  """Those of `unit_step` are its own, which the blocks do not know."""
  passing = optax.stateless(
    lambda updates, params: jax.tree.map(
      lambda u, p: u * scl_jax.unit_step(p), updates, params
    )
  )

  def loss(step, params):
    params, _ = step(passing, gradient(params), passing.init(params), params)
    return sum(jnp.sum(p**2) for p in jax.tree.leaves(params))

  params = make_params()
  found = jax.grad(lambda p: loss(scl_jax.step_in_blocks, p))(params)
  expected = jax.grad(lambda p: loss(plain_step, p))(params)
  chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_extra_arguments_arrive():
  tx = optax.chain(
    optax.sgd(0.1),
    optax.contrib.reduce_on_plateau(patience=1, factor=0.5),
  )
  params = make_params()
  state = tx.init(params)

  @jax.jit
  def step(params, state, value):
    return scl_jax.step_in_blocks(tx, params, state, params, value=value)

  for _ in range(3):
    params, state = step(params, state, 1.0)
  assert float(optax.tree.get(state, 'scale')) < 1


def test_without_jit_nothing_is_traced(monkeypatch):
  monkeypatch.delattr(nodes, 'trace')
  tx = optax.sgd(0.1)
  params = make_params()
  found, _ = scl_jax.step_in_blocks(tx, params, tx.init(params), params)
  chex.assert_trees_all_close(found, jax.tree.map(lambda p: 0.9 * p, params))


def test_what_is_no_optimizer():
  with pytest.raises(TypeError, match='optimizer must be'):
    scl_jax.step_in_blocks('adam', {}, (), {})
