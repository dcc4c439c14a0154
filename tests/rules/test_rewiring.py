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
"""RigL and SET against NumPy, and what a new connection starts from."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

KEY = jax.random.key(11)
SHAPES = {'a': (8, 6), 'b': (6, 5)}
RULES = {
  'rigl': scl_jax.rigl,
  'set': scl_jax.sparse_evolutionary_training,
}
each_rule = pytest.mark.parametrize('make_rule', RULES.values(), ids=RULES)


def draw(seed):
  rng = np.random.default_rng(seed)
  return {
    name: {'kernel': jnp.asarray(rng.normal(size=shape), jnp.float32)}
    for name, shape in SHAPES.items()
  }


def rewire_in_numpy(mask, weight, grow_scores, fraction):
  mask, weight = np.ravel(mask), np.abs(np.ravel(weight))
  live = np.flatnonzero(mask)
  moved = int(np.floor(np.float32(fraction) * np.float32(live.size)))
  order = live[np.argsort(-weight[live], kind='stable')]
  new = np.zeros(mask.size, bool)
  new[order[: live.size - moved]] = True
  free = np.flatnonzero(~new)
  scores = np.ravel(grow_scores)[free]
  new[free[np.argsort(-scores, kind='stable')[:moved]]] = True
  return new


@pytest.mark.parametrize('step', [4, 8, 12])
def test_rigl_drops_small_weights_and_grows_large_gradients(step):
  rule = scl_jax.rigl(
    0.4, key=KEY, end_step=16, update_every=4, initial_fraction=0.5
  )
  weights, grads = draw(0), draw(1)
  state = rule.init(weights)._replace(count=jnp.int32(step))
  new = jax.jit(rule.update)(grads, state, weights)
  fraction = 0.25 * (1 + np.cos(np.pi * step / 16))
  for name in SHAPES:
    before = np.asarray(state.masks[name]['kernel'])
    after = np.asarray(new.masks[name]['kernel'])
    expected = rewire_in_numpy(
      before,
      weights[name]['kernel'],
      np.abs(grads[name]['kernel']),
      fraction,
    )
    np.testing.assert_array_equal(np.ravel(after), expected)
    assert after.sum() == before.sum()
    assert np.any(after != before)


def test_set_drops_small_weights_and_grows_at_random():
  rule = scl_jax.sparse_evolutionary_training(
    0.4, key=KEY, end_step=16, update_every=4, initial_fraction=0.5
  )
  weights = draw(0)
  update = jax.jit(rule.update)
  grown = np.zeros((8, 6))
  state = rule.init(weights)
  before = np.asarray(state.masks['a']['kernel'])
  fraction = 0.25 * (1 + np.cos(np.pi * 4 / 16))
  moved = int(fraction * before.sum())
  small = np.sort(np.abs(np.asarray(weights['a']['kernel']))[before])[moved]
  stays = before & (np.abs(weights['a']['kernel']) >= small)
  for seed in range(100):
    other = scl_jax.sparse_evolutionary_training(
      0.4,
      key=jax.random.key(seed),
      end_step=16,
      update_every=4,
      initial_fraction=0.5,
    )
    if seed < 3:  # the same state, other keys
      update = jax.jit(other.update)
      after = update(weights, state._replace(count=jnp.int32(4)), weights)
      mask = np.asarray(after.masks['a']['kernel'])
      assert np.all(mask[stays])
      assert mask.sum() == before.sum()
      grown += mask & ~stays
  assert len(np.unique(grown)) > 1


@each_rule
def test_dates(make_rule):
  """Never at step 0, never from end_step on."""
  rule = make_rule(0.5, key=KEY, end_step=9, update_every=3)
  weights, state, changes = draw(0), rule.init(draw(0)), []
  update = jax.jit(rule.update)
  for step in range(14):
    new = update(draw(step), state, weights)
    if any(
      np.any(np.asarray(a) != b)
      for a, b in zip(
        jax.tree.leaves(new.masks), jax.tree.leaves(state.masks), strict=True
      )
    ):
      changes.append(step)
    state = new
  assert changes == [3, 6]


@each_rule
@pytest.mark.parametrize('name', ['adam', 'momentum', 'adafactor'])
def test_a_new_connection_starts_from_zero_with_zero_moments(make_rule, name):
  optimizer = {
    'adam': optax.adam(0.1),
    'momentum': optax.sgd(0.1, momentum=0.9),
    'adafactor': optax.adafactor(0.1, min_dim_size_to_factor=99, momentum=0.9),
  }[name]
  rule = make_rule(
    0.5, key=KEY, end_step=9, update_every=3, initial_fraction=0.6
  )
  tx = scl_jax.sparsify(optimizer, rule)
  params = draw(0)
  state, step = tx.init(params), jax.jit(tx.update)
  for index in range(4):
    before = scl_jax.get_masks(state)['a']['kernel']
    updates, state = step(draw(index), state, params)
    params = optax.apply_updates(params, updates)
  new = np.asarray(scl_jax.get_masks(state)['a']['kernel'] > before)
  assert new.any()
  assert not np.any(np.asarray(params['a']['kernel'])[new])
  moments = [
    np.asarray(leaf)
    for leaf in jax.tree.leaves(state.inner_state)
    if leaf.shape == (8, 6)
  ]
  assert moments
  for moment in moments:
    assert not np.any(moment[new])
    assert np.any(moment[~new])


@each_rule
def test_layers_have_the_densities_of_their_distribution(make_rule):
  for allocation in ('uniform', 'erdos_renyi'):
    rule = make_rule(0.3, key=KEY, end_step=9, allocation=allocation)
    masks = rule.init(draw(0)).masks
    counts = scl_jax.layer_budgets(draw(0), 0.3, allocation)
    assert jax.tree.map(lambda m: int(m.sum()), masks) == counts


@each_rule
@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'target_density': 2.0}, 'target_density must be in'),
    ({'end_step': 0}, 'end_step must be a whole number >= 1, got 0'),
    ({'update_every': 1.5}, 'update_every must be a whole number'),
    ({'initial_fraction': 1.1}, r'initial_fraction must be in \[0, 1\]'),
    ({'allocation': 'global'}, "allocation must be .*got 'global'"),
  ],
)
def test_errors(make_rule, arguments, message):
  arguments = {'target_density': 0.5, 'key': KEY, 'end_step': 5, **arguments}
  with pytest.raises(ValueError, match=message):
    make_rule(**arguments)


class Head(NamedTuple):
  w: jax.Array


class Named(NamedTuple):
  mu: Head
  w: jax.Array


@each_rule
def test_names_that_an_optimizer_has_too(make_rule):
  # The path of Adam's first moment of `w` ends like the weight `mu.w`.
  first, second = (jax.random.normal(jax.random.key(i), (6, 6)) for i in (0, 1))
  rule = make_rule(0.3, key=KEY, end_step=90, update_every=3)
  tx = scl_jax.sparsify(optax.adam(0.1), rule)

  @jax.jit
  def step(params, state):
    grads = jax.tree.map(lambda p: jnp.cos(3 * p + 1), params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  def train(params):
    state = tx.init(params)
    for _ in range(10):
      params, state = step(params, state)
    return jax.tree.leaves((params, state.inner_state))

  chex.assert_trees_all_equal(
    train(Named(Head(first), second)), train({'mu': {'w': first}, 'w': second})
  )


@each_rule
@pytest.mark.parametrize('key', [0, None, jax.random.split(KEY)])
def test_what_is_no_key(make_rule, key):
  for make in (
    scl_jax.random_pruning,
    functools.partial(make_rule, end_step=9),
  ):
    with pytest.raises(ValueError, match='key must be one key'):
      make(0.3, key=key)


def test_an_optimizer_whose_state_changes_its_structure():
  optimizer = optax.chain(optax.sgd(0.1), optax.monitor({'n': optax.tree.norm}))
  tx = scl_jax.sparsify(optimizer, scl_jax.rigl(0.5, key=KEY, end_step=10))
  params = draw(0)
  with pytest.raises(ValueError, match='changes the structure of its state'):
    tx.update(params, tx.init(params), params)
