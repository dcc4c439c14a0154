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
"""Every rule on one device and on eight: the same masks, and no weight moves.

Gradients are an elementwise function of params here, so what differs are sums
over sharded axes: norms, scales, densities. They agree to `TOLERANCE`, which
is asserted of the variables that masks are cut from, and the masks agree
exactly.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

KEY = jax.random.key(5)
STEPS = 8
TOLERANCE = 1e-5
SPECS = {
  'a': {'kernel': jax.P('fsdp', 'tensor'), 'bias': jax.P('tensor')},
  'b': {'kernel': jax.P('tensor', 'fsdp'), 'bias': jax.P()},
}
MACS = {'a': {'kernel': 5, 'bias': 0}, 'b': {'kernel': 2, 'bias': 0}}


def scl(*args, **kwargs):
  return scl_jax.scl(*args, mask_optimizer=optax.sgd(0.1), **kwargs)


RULES = {
  'scl, penalty': scl(penalty=0.25),
  'scl, density': scl(target_density=0.4, freeze_step=6),
  'scl, layers': scl(target_density={'a/.*': 0.4, '.*': 0.3}, freeze_step=6),
  'scl, MACs': scl(target_macs=0.4, costs=MACS, freeze_step=6),
  'scl, blocks': scl(penalty=0.25, granularity=(3, 5)),
  'scl, bfloat16': scl(penalty=0.25, mask_dtype=jnp.bfloat16),
  'scl, feature price': scl(penalty=0.25, feature_price=0.75),
  'magnitude': scl_jax.gradual_magnitude(
    0.3, begin_step=1, end_step=5, update_every=2
  ),
  'rigl': scl_jax.rigl(0.5, key=KEY, end_step=7, update_every=2),
  'set': scl_jax.sparse_evolutionary_training(
    0.5, key=KEY, end_step=7, update_every=2
  ),
  'snip': scl_jax.snip(0.3),
  'random': scl_jax.random_pruning(0.3, key=KEY),
  'dst': scl_jax.dynamic_sparse_training(0.5, mask_optimizer=optax.sgd(0.1)),
  'str': scl_jax.soft_threshold(
    0.1, init_value=-1.0, mask_optimizer=optax.sgd(0.1)
  ),
}


def normal(seed):
  rng = np.random.default_rng(seed)
  shapes = {
    'a': {'kernel': (16, 24), 'bias': (24,)},
    'b': {'kernel': (24, 12), 'bias': (12,)},
  }
  return jax.tree.map(
    lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
    shapes,
    is_leaf=lambda node: isinstance(node, tuple),
  )


def step_of(rule):
  tx = scl_jax.sparsify(optax.adam(0.05), rule)

  def step(params, state, goal):
    grads = jax.tree.map(jnp.subtract, params, goal)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return tx, step


def train(rule, params, goal):
  """The state after some steps of one program, and the program."""
  tx, step = step_of(rule)
  state = tx.init(params)
  # As in training: what is sharded stays as it is.
  lies = jax.tree.map(
    lambda x: x.sharding if len(x.sharding.device_set) > 1 else None,
    (params, state),
  )
  program = (
    jax.jit(step, donate_argnums=(0, 1), out_shardings=lies)
    .lower(params, state, goal)
    .compile()
  )
  for _ in range(STEPS):
    params, state = program(params, state, goal)
  return params, state, program.as_text()


@functools.lru_cache
def on_one_device(name):
  params, state, _ = train(RULES[name], normal(0), normal(1))
  return jax.tree.map(np.asarray, (params, state))


@pytest.fixture(params=['Auto', 'Explicit'])
def mesh(request):
  kind = getattr(jax.sharding.AxisType, request.param)
  axes = ('data', 'fsdp', 'tensor')
  return jax.make_mesh((2, 2, 2), axes, axis_types=(kind,) * 3)


def moved(program):
  """(operation, entries) of what devices send one another to keep whole."""
  found = re.findall(
    r'= \(?\w+\[([\d,]*)\]\S* '
    r'(all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(',
    program,
  )
  return [
    (name, int(np.prod([int(n) for n in shape.split(',') if n])))
    for shape, name in found
  ]


@pytest.mark.parametrize('name', RULES)
def test_the_same_masks_and_no_gather(name, mesh):
  place = lambda tree: jax.tree.map(
    lambda x, spec: jax.device_put(x, jax.sharding.NamedSharding(mesh, spec)),
    tree,
    SPECS,
  )
  with jax.set_mesh(mesh):
    params, state, program = train(
      RULES[name], place(normal(0)), place(normal(1))
    )

  expected_params, expected = on_one_device(name)
  got = jax.tree.map(np.asarray, state)
  for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
    np.testing.assert_allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE)
  masks = jax.tree.map(np.asarray, scl_jax.get_masks(expected))
  assert 0 < scl_jax.density(masks) < 1
  for x, y in zip(
    jax.tree.leaves(masks),
    jax.tree.leaves(scl_jax.get_masks(state)),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)

  # Where a weight lies it stays: a device holds a quarter of a kernel.
  for layer in params.values():
    kernel = layer['kernel']
    shard = kernel.addressable_shards[0].data
    assert shard.size == kernel.size // 4
  # Blocks may lie across two devices: partial sums and block variables are
  # sent, never as much as a part of a weight.
  sent = moved(program)
  smallest_shard = 24 * 12 // 4
  if name == 'scl, blocks':
    assert all(size <= smallest_shard for _, size in sent)
  else:
    assert not sent
  # A step is one program that never asks the host.
  for word in ('callback', 'outfeed', 'infeed', 'send(', 'recv('):
    assert word not in program

  table = scl_jax.summary(params, scl_jax.get_masks(state))
  assert table == scl_jax.summary(expected_params, masks)


def test_what_counts_as_moved():
  mesh = jax.make_mesh((8,), ('d',), axis_types=(jax.sharding.AxisType.Auto,))
  sharded = jax.sharding.NamedSharding(mesh, jax.P('d'))
  whole = jax.sharding.NamedSharding(mesh, jax.P())
  x = jax.device_put(jnp.arange(16.0), sharded)
  program = jax.jit(lambda x: x + 1, out_shardings=whole).lower(x).compile()
  assert moved(program.as_text()) == [('all-gather', 16)]


def test_norms_are_global_where_inputs_are_sharded(mesh):
  tx = scl_jax.normalize_by_feature_norm()
  sharding = jax.sharding.NamedSharding(mesh, jax.P(('data', 'fsdp'), 'tensor'))
  values = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
  grads = jax.device_put(values, sharding)
  with jax.set_mesh(mesh):
    got, _ = jax.jit(lambda g: tx.update(g, tx.init(g)))(grads)
  expected = values / np.linalg.norm(values, axis=0)
  np.testing.assert_allclose(got, expected, rtol=1e-5)
  assert got.sharding.is_equivalent_to(sharding, 2)
