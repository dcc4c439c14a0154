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
"""Training goes on in the compact model, with the optimizer's state."""

import functools
from typing import NamedTuple

from dead_units import KEEP
from dead_units import X
from dead_units import close
from dead_units import net
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import tree
from scl_jax.compaction import carrying


@pytest.mark.parametrize('granularity', ['connection', 'feature'])
def test_training_goes_on_in_the_small_model(granularity):
  """The next steps are those of the large model, as dead features stay dead."""
  fn, params = net()
  tx = scl_jax.sparsify(
    optax.adam(1e-2),
    scl_jax.scl(
      target_density=0.4, freeze_step=1, granularity=granularity, prunable='w|v'
    ),
  )
  state = tx.init(params)
  target = jnp.ones((4, 2))

  @functools.partial(jax.jit, static_argnums=0)
  def step(f, params, state):
    grads = jax.grad(lambda p: ((f(p, X) - target) ** 2).mean())(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(3):
    params, state = step(fn, params, state)
  small = scl_jax.compact(fn, params, scl_jax.get_masks(state), X)
  small_params, small_state = small.params, small.carry(state)
  before = jax.tree.map(jnp.shape, small_params)
  close(small.fn(small_params, X), fn(params, X))
  small_params, small_state = step(small.fn, small_params, small_state)
  assert jax.tree.map(jnp.shape, small_params) == before
  masks = scl_jax.get_masks(small_state)
  assert masks['w'].shape == small_params['w'].shape
  params, _ = step(fn, params, state)
  for index, name in enumerate(sorted(params)):
    if name != 'c':  # which holds the constants as well
      kept = np.asarray(params[name])[np.ix_(*small.fn.kept[index])]
      close(small_params[name], kept, atol=1e-4)


@pytest.mark.parametrize(
  'target',
  [
    {'target_density': 0.2},
    {'target_density': {'.*': 0.2}},
    {'target_macs': 0.2, 'costs': {'v': 3.0, 'w': 2.0}},
  ],
)
def test_the_target_stays_what_it_was_of_the_large_model(target):
  """Half of the units die: the goal is as many connections as before."""
  keys = jax.random.split(jax.random.key(0), 2)
  params = {
    'v': jax.random.normal(keys[0], (16, 5)),
    'w': jax.random.normal(keys[1], (6, 16)),
  }
  fn = lambda p, x: jnp.tanh(x @ p['w']) @ p['v']
  rule = scl_jax.scl(freeze_step=40, prunable='v|w', **target)
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)

  @functools.partial(jax.jit, static_argnums=0)
  def step(f, params, state):
    grads = jax.grad(lambda p: (f(p, X) ** 2).mean())(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params, state = step(fn, params, tx.init(params))
  inner = state.rule_state
  closed = {
    'v': inner.mask_params['v'].at[8:].set(-0.3),
    'w': inner.mask_params['w'].at[:, 8:].set(-0.3),
  }
  state = state._replace(rule_state=inner._replace(mask_params=closed))
  params, state = step(fn, params, state)
  masks = scl_jax.get_masks(state)
  small = scl_jax.compact(fn, params, masks, X)
  assert small.params['w'].shape == (6, 8)
  other = small.params, small.carry(state)

  _, large = step(fn, params, state)
  other = step(small.fn, *other)
  assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
  for name in ('density', 'integral'):
    jax.tree.map(
      assert_close,
      getattr(other[1].rule_state.control_state, name),
      getattr(large.rule_state.control_state, name),
    )
  for _ in range(45):
    other = step(small.fn, *other)
  live = jax.tree.map(jnp.sum, scl_jax.get_masks(other[1]))
  if 'costs' in target:
    spent = 3 * live['v'] + 2 * live['w']
    assert 0 <= 0.2 * (3 * 80 + 2 * 96) - spent < 3
  else:
    # Of 80 and of 96 connections, where each layer has a target of its own.
    assert live['v'] + live['w'] == 35


class Head(NamedTuple):
  w: jax.Array


class Named(NamedTuple):
  mu: Head
  w: jax.Array


def test_moments_go_with_their_own_weight():
  """The path of Adam's first moment of `w` ends like the weight `mu.w`."""
  rng = np.random.default_rng(0)
  first, second = jnp.asarray(rng.normal(size=(2, 5, 5)), jnp.float32)
  params = Named(Head(first * KEEP), second)
  fn = lambda p, x: jnp.tanh(x @ p.mu.w) @ p.w
  small = scl_jax.compact(fn, params, None, X[:, :5])
  state = optax.adam(0.1).init(params)[0]._replace(mu=params, nu=params)
  carried = small.carry(state)
  for moments in (carried.mu, carried.nu):
    close(moments.mu.w, first[:, KEEP > 0])
    close(moments.w, second[KEEP > 0])


def constant_unit():
  """The second of two hidden units is the constant tanh(3), and goes."""
  masks = {'w': jnp.array([[1.0, 0], [1, 0]]), 'v': None, 'a': None, 'c': None}
  params = {
    'w': jnp.array([[1.0, 0], [1, 0]]),
    'a': jnp.array([0.0, 3.0]),
    'v': jnp.array([[1.0], [1.0]]),
    'c': jnp.zeros(1),
  }
  fn = lambda p, x: jnp.tanh(x @ p['w'] + p['a']) @ p['v'] + p['c']
  return fn, params, masks


FROM_PARAMS = {
  'schedule-free SGD': optax.contrib.schedule_free_sgd,
  'schedule-free AdamW': optax.contrib.schedule_free_adamw,
  'MADGRAD': optax.contrib.madgrad,
  'COCOB': optax.contrib.cocob,
  'mechanize': lambda rate: optax.contrib.mechanize(optax.adam(rate)),
  'Prodigy': optax.contrib.prodigy,
  'DoG': lambda rate: optax.chain(optax.contrib.dog(), optax.scale(rate)),
  'DoWG': lambda rate: optax.chain(optax.contrib.dowg(), optax.scale(rate)),
  'SAM': lambda rate: optax.contrib.sam(optax.sgd(rate), optax.sgd(rate)),
}


@pytest.mark.parametrize('make', FROM_PARAMS.values(), ids=FROM_PARAMS)
@pytest.mark.parametrize('is_within', [True, False])
def test_constants_go_into_all_that_holds_params(make, is_within):
  """With steps of nothing the small model goes on computing the same."""
  fn, params, masks = constant_unit()
  x = jnp.ones((4, 2))
  tx = make(1e-9)
  if is_within:
    tx = scl_jax.sparsify(tx, scl_jax.static_masks(masks))

  def step(fn, params, state):
    grads = jax.grad(lambda p: 1e-3 * fn(p, x).sum())(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  # A step before, as SAM holds params from then on only.
  params, state = step(fn, params, tx.init(params))
  small = scl_jax.compact(fn, params, masks, x)
  assert small.params['w'].shape == (2, 1)
  carried, state = small.params, small.carry(state)
  for _ in range(3):
    carried, state = step(small.fn, carried, state)
  # COCOB takes a small step whatever the rate.
  np.testing.assert_allclose(small.fn(carried, x), fn(params, x), rtol=1e-4)


def test_every_state_of_optax_that_starts_from_params_is_known():
  """A new one in a later optax fails here."""
  params = {'w': jnp.arange(1.0, 13.0).reshape(3, 4) + 0.37}
  found = set()
  for tx in (*FROM_PARAMS.values(), optax.adam, optax.lion, optax.adabelief):
    state = tx(1e-3).init(params)
    _, state = tx(1e-3).update(optax.tree.zeros_like(params), state, params)
    for path, leaf in zip(
      tree.paths(state), jax.tree.leaves(state), strict=True
    ):
      if jnp.shape(leaf) == (3, 4) and (leaf == params['w']).all():
        found.add(path.split('/')[-2])
  assert found == carrying._VALUES_OF_PARAMS - {'weights'}


@pytest.mark.parametrize(
  'tx', [optax.sm3(0.1), optax.flatten(optax.adam(0.1))], ids=['sm3', 'flat']
)
def test_what_is_not_kept_by_axes_cannot_be_cut(tx):
  fn, params, masks = constant_unit()
  small = scl_jax.compact(fn, params, masks, jnp.ones((4, 2)))
  with pytest.raises(ValueError, match='cannot be cut'):
    small.carry(tx.init(params))


def test_placeholders_of_adafactor():
  """Nothing is factored below 128 rows; rows and columns have one entry."""
  fn, params, masks = constant_unit()
  small = scl_jax.compact(fn, params, masks, jnp.ones((4, 2)))
  tx = optax.adafactor(0.1)
  carried, made = small.carry(tx.init(params)), tx.init(small.params)
  assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, made)


def test_the_state_of_another_model():
  fn, params, masks = constant_unit()
  small = scl_jax.compact(fn, params, masks, jnp.ones((4, 2)))
  with pytest.raises(ValueError, match='nothing for these params'):
    small.carry(optax.adam(0.1).init({'other': jnp.ones((2, 2))}))
  assert small.carry(optax.sgd(0.1).init(params)) is not None
