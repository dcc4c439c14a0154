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
"""`sparsify` inside `jax.pmap` and `jax.shard_map`.

Each device runs the whole optimizer on its own copy of params and state. With
a mean of gradients over the devices all copies see the same gradients, so they
stay equal, and nothing in a rule is local: that is data parallelism. Where the
weights themselves are cut by `shard_map`, what a rule sums (norms, counts of
connections) is that of the shard: each device prunes its own part.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

COUNT = 4
AUTO = (jax.sharding.AxisType.Auto,)
RULES = {
  'scl': scl_jax.scl(
    target_density=0.4, freeze_step=5, mask_optimizer=optax.sgd(0.1)
  ),
  'rigl': scl_jax.rigl(0.5, key=jax.random.key(0), end_step=6, update_every=2),
}


def data():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4 * COUNT, 6)).astype(np.float32)
  return x, (x @ rng.normal(size=(6, 5))).astype(np.float32)


def first_params():
  values = np.random.default_rng(1).normal(size=(6, 5))
  return {'kernel': jnp.asarray(values, jnp.float32), 'bias': jnp.zeros(5)}


def loss_fn(params, x, y):
  return jnp.mean((x @ params['kernel'] + params['bias'] - y) ** 2)


def step_of(tx, mean):
  def step(params, state, x, y):
    grads = mean(jax.grad(loss_fn)(params, x, y))
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return step


def train(step, params, state, x, y):
  for _ in range(6):
    params, state = step(params, state, x, y)
  return params, scl_jax.get_masks(state)['kernel']


@pytest.mark.parametrize('rule', RULES.values(), ids=RULES)
def test_data_parallel(rule):
  tx = scl_jax.sparsify(optax.adam(0.05), rule)
  x, y = data()
  params = first_params()
  state = tx.init(params)
  alone = jax.jit(step_of(tx, lambda grads: grads))
  expected, expected_mask = train(alone, params, state, x, y)
  assert 0 < expected_mask.mean() < 1

  mean = lambda grads: jax.lax.pmean(grads, 'd')
  mesh = jax.make_mesh((COUNT,), ('d',), axis_types=AUTO)
  mapped = jax.jit(
    jax.shard_map(
      step_of(tx, mean),
      mesh=mesh,
      in_specs=(jax.P(), jax.P(), jax.P('d'), jax.P('d')),
      out_specs=jax.P(),
      check_vma=False,
    )
  )
  got, mask = train(mapped, params, state, x, y)
  np.testing.assert_array_equal(mask, expected_mask)
  np.testing.assert_allclose(got['kernel'], expected['kernel'], atol=1e-5)

  parallel = jax.pmap(
    step_of(tx, mean), axis_name='d', devices=jax.devices()[:COUNT]
  )
  copies = jax.tree.map(lambda leaf: jnp.stack([leaf] * COUNT), (params, state))
  split = lambda a: a.reshape(COUNT, -1, *a.shape[1:])
  for _ in range(6):
    copies = parallel(*copies, split(x), split(y))
  masks = scl_jax.get_masks(jax.tree.map(np.asarray, copies[1]))['kernel']
  for mask in masks:
    np.testing.assert_array_equal(mask, expected_mask)
  np.testing.assert_allclose(
    copies[0]['kernel'][-1], expected['kernel'], atol=1e-5
  )


def test_what_is_local_where_weights_are_cut():
  """Each shard keeps its own highest: not what the whole would keep."""
  rule = scl_jax.gradual_magnitude(0.5, begin_step=0, end_step=0)
  tx = scl_jax.sparsify(optax.sgd(0.0), rule)
  params = {'kernel': jnp.arange(1.0, 17.0).reshape(8, 2)}

  def prune(params):
    state = tx.init(params)
    updates, _ = tx.update(params, state, params)
    return optax.apply_updates(params, updates)

  mesh = jax.make_mesh((2,), ('d',), axis_types=AUTO)
  cut = jax.shard_map(
    prune, mesh=mesh, in_specs=jax.P('d'), out_specs=jax.P('d'), check_vma=False
  )
  whole = np.asarray(prune(params)['kernel']).reshape(2, -1) != 0
  local = np.asarray(jax.jit(cut)(params)['kernel']).reshape(2, -1) != 0
  assert whole.sum(1).tolist() == [0, 8]
  assert local.sum(1).tolist() == [4, 4]
