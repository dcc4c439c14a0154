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
"""Targets of `scl`: for single layers and in MACs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import thresholding
from scl_jax import wide

INPUTS = jax.random.normal(jax.random.key(0), (64, 20))
LABELS = jnp.argmax(INPUTS[:, :3], axis=1)
COSTS = {'a': {'kernel': 2.0, 'bias': 0.0}, 'b': {'kernel': 7.0, 'bias': 0.0}}


def init_params():
  keys = jax.random.split(jax.random.key(1))
  return {
    'a': {
      'kernel': jax.random.normal(keys[0], (20, 10)) * 0.3,
      'bias': jnp.zeros(10),
    },
    'b': {
      'kernel': jax.random.normal(keys[1], (10, 3)) * 0.3,
      'bias': jnp.zeros(3),
    },
  }


def loss_fn(params):
  hidden = jax.nn.relu(INPUTS @ params['a']['kernel'] + params['a']['bias'])
  logits = hidden @ params['b']['kernel'] + params['b']['bias']
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def train(steps=80, params=None, **arguments):
  tx = scl_jax.sparsify(
    optax.adam(1e-2), scl_jax.scl(freeze_step=60, **arguments)
  )
  params = init_params() if params is None else params

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state):
    updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(jnp.copy, params)
  state = tx.init(params)
  for _ in range(steps):
    params, state = step(params, state)
  assert step._cache_size() == 1
  return state


def live(state):
  return [int(n) for n in jax.tree.leaves(_counts(state))]


def _counts(state):
  return scl_jax.metrics.live_connections(scl_jax.get_masks(state))


def rule_state(state):
  return scl_jax.get_sparsify_state(state).rule_state


class TestLayers:
  @pytest.mark.parametrize(
    ('densities', 'counts'),
    [
      ({'a/.*': 0.1, 'b/.*': 0.5}, [20, 15]),
      ({'b/kernel': 1.0, '.*': 0.005}, [1, 30]),
      ({'.*': 0.3}, [60, 9]),
    ],
  )
  def test_each_is_exact_after_the_cut(self, densities, counts):
    assert live(train(target_density=densities)) == counts

  def test_each_has_its_own_price(self):
    state = train(target_density={'a/.*': 0.05, '.*': 1.0}, steps=40)
    penalty = rule_state(state).penalty
    assert penalty['a']['kernel'] > 0
    assert penalty['a']['kernel'] > 10 * penalty['b']['kernel']
    assert penalty['a']['bias'] is None

  def test_one_layer_alone_is_the_plain_target(self):
    """The same numbers by the other route."""
    results = [
      train(target_density=target, prunable='a/kernel')
      for target in (0.1, {'a/kernel': 0.1})
    ]
    masks = [rule_state(r).mask_params['a']['kernel'] for r in results]
    np.testing.assert_array_equal(*masks)

  def test_vmap_over_densities(self):
    params = init_params()

    def count(density):
      rule = scl_jax.scl(
        target_density={'a/.*': density, '.*': 0.5}, freeze_step=5
      )
      state, grads = rule.init(params), jax.grad(loss_fn)(params)
      state = jax.lax.fori_loop(
        0, 6, lambda _, s: rule.update(grads, s, params), state
      )
      return [jnp.sum(m) for m in jax.tree.leaves(state.masks)]

    first, second = jax.jit(jax.vmap(count))(jnp.array([0.1, 0.25]))
    np.testing.assert_array_equal(first, [20, 50])
    np.testing.assert_array_equal(second, [15, 15])

  def test_sharded(self, mesh):
    sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('d', None)
    )
    weights = {'a': jax.device_put(jnp.ones((20, 10)), sharding)}
    rule = scl_jax.scl(target_density={'a': 0.1}, freeze_step=1, prunable='a')
    state = jax.jit(rule.update)(weights, rule.init(weights), weights)
    assert state.mask_params['a'].sharding.is_equivalent_to(sharding, 2)
    assert int(jnp.sum(state.masks['a'])) == 20

  @pytest.mark.parametrize(
    ('densities', 'message'),
    [
      ({'a/.*': 0.1}, "(?s)name every prunable leaf.*'b/kernel'"),
      ({'c': 0.1, '.*': 0.1}, "(?s)'c' matches no prunable.*'a/kernel'"),
      ({'a/bias': 0.1, '.*': 0.1}, 'is not prunable'),
      (
        {'b/.*': 0.01, '.*': 0.1},
        r"(?s)'b/kernel': it leaves 0 of 30.*0.03333",
      ),
    ],
  )
  def test_what_does_not_fit_the_weights(self, densities, message):
    rule = scl_jax.scl(target_density=densities, freeze_step=9)
    with pytest.raises(ValueError, match=message):
      rule.init(init_params())


class TestMacs:
  @pytest.mark.parametrize('share', [1.0, 0.5, 0.1])
  # The third needs 2^45 units, the second is not whole.
  @pytest.mark.parametrize('factor', [1.0, 1 / 3, 2.0**33])
  def test_the_budget_is_spent_to_one_connection(self, share, factor):
    costs = jax.tree.map(lambda c: c * factor, COSTS)
    rule = scl_jax.scl(target_macs=share, costs=costs, freeze_step=1)
    weights = init_params()
    state = jax.jit(rule.update)(
      jax.grad(loss_fn)(weights), rule.init(weights), weights
    )
    total = 200 * 2 + 30 * 7
    a, b = (int(m.sum()) for m in jax.tree.leaves(state.masks))
    assert share * total - 7 < 2 * a + 7 * b <= share * total

  def test_prices_are_proportional_to_costs(self):
    penalties = [
      rule_state(train(steps=1, target_macs=0.2, costs=c)).mask_params
      for c in (COSTS, jax.tree.map(lambda c: 10 * c, COSTS))
    ]
    np.testing.assert_array_equal(*[p['a']['kernel'] for p in penalties])
    # Without gradients prices alone move the masks; the first λ is 0.05 times
    # the scale plus what the first error adds, and 0 gradients have scale 0.
    rule = scl_jax.scl(
      target_macs=0.2, costs=COSTS, freeze_step=60, normalizer=None, box=None
    )
    weights = init_params()
    state = rule.init(weights)
    state = state._replace(
      control_state=state.control_state._replace(scale=jnp.float32(1.0))
    )
    zeros = jax.tree.map(jnp.zeros_like, weights)
    moved = rule.update(zeros, state, weights).mask_params
    a, b = 0.3 - moved['a']['kernel'], 0.3 - moved['b']['kernel']
    np.testing.assert_allclose(b[0, 0] / a[0, 0], 7 / 2, rtol=1e-3)
    # The average MAC pays λ: 400 of them belong to a, 210 to b.
    price = rule.update(zeros, state, weights).penalty
    average = (400 * a[0, 0] + 210 * b[0, 0]) / 610
    np.testing.assert_allclose(average, 0.05 * price, rtol=1e-3)

  def test_equal_costs_are_the_plain_target(self):
    costs = {k: {'kernel': 3.0, 'bias': 0.0} for k in 'ab'}
    macs = train(target_macs=0.2, costs=costs)
    assert sum(live(macs)) == sum(live(train(target_density=0.2))) == 46

  def test_layers_that_are_not_prunable_count_as_spent(self):
    state = train(target_macs=0.5, costs=COSTS, prunable='a/kernel')
    assert live(state) == [(305 - 210) // 2]
    rule = scl_jax.scl(
      target_macs=0.3, costs=COSTS, prunable='a/kernel', freeze_step=9
    )
    with pytest.raises(ValueError, match=r'not prunable hold 0.3443 of the'):
      rule.init(init_params())

  def test_vmap_over_shares(self):
    params = init_params()

    def count(share):
      rule = scl_jax.scl(target_macs=share, costs=COSTS, freeze_step=5)
      state, grads = rule.init(params), jax.grad(loss_fn)(params)
      state = jax.lax.fori_loop(
        0, 6, lambda _, s: rule.update(grads, s, params), state
      )
      return [jnp.sum(m) for m in jax.tree.leaves(state.masks)]

    a, b = jax.jit(jax.vmap(count))(jnp.array([0.1, 0.5]))
    used = np.asarray(2 * a + 7 * b)
    assert np.all((used > [54, 298]) & (used <= [61, 305]))

  @pytest.mark.parametrize(
    ('costs', 'message'),
    [
      ({'a': COSTS['a']}, "(?s)costs must fit.*'b/kernel'"),
      ({**COSTS, 'c': 1.0}, "(?s)costs must fit.*'c'"),
      (jax.tree.map(lambda c: 0.0, COSTS), '(?s)are 0 at prunable.*a/kernel'),
    ],
  )
  def test_costs_that_do_not_fit(self, costs, message):
    rule = scl_jax.scl(target_macs=0.5, costs=costs, freeze_step=9)
    with pytest.raises(ValueError, match=message):
      rule.init(init_params())


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'target_macs': 0.1, 'freeze_step': 9}, 'needs costs'),
    ({'penalty': 0.1, 'costs': COSTS}, 'nothing else does'),
    ({'target_macs': 0.1, 'costs': COSTS}, 'target_macs needs freeze_step'),
    ({'target_density': {'a': 0.1}}, 'target_density needs freeze_step'),
    ({'target_macs': 0.1, 'penalty': 0.1}, 'exactly one of'),
    ({'target_macs': 0.1, 'target_density': 0.1}, 'exactly one of'),
    ({'target_macs': 1.1, 'costs': COSTS, 'freeze_step': 9}, 'got 1.1'),
    ({'target_density': {'a': 0.0}, 'freeze_step': 9}, "'a'.*got 0.0"),
    ({'target_density': {'a': None}, 'freeze_step': 9}, 'got None'),
    ({'target_density': {'*': 0.1}, 'freeze_step': 9}, 'regular expression'),
    (
      {'target_macs': 0.1, 'costs': {'a': -1.0}, 'freeze_step': 9},
      'costs must be finite',
    ),
    (
      {'target_macs': 0.1, 'costs': {'a': np.ones(2)}, 'freeze_step': 9},
      'one number for each leaf',
    ),
  ],
)
def test_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    scl_jax.scl(**arguments)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_a_cut_before_any_mask_has_moved_takes_of_all_layers(dtype):
  params = {name: {'kernel': jnp.ones((20, 20))} for name in 'abc'}
  rule = scl_jax.scl(target_density=0.5, freeze_step=1, mask_dtype=dtype)
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)
  _, state = jax.jit(tx.update)(params, tx.init(params), params)
  assert sum(live(state)) == 600
  # All are equal: 200 ± 5 standard deviations of a choice at random.
  assert all(160 < number < 240 for number in live(state))


def test_a_target_below_one_connection_is_an_error():
  rule = scl_jax.scl(target_density=1e-3, freeze_step=9)
  with pytest.raises(ValueError, match=r'leaves 0 of 230.*0.004348'):
    rule.init(init_params())


@pytest.mark.parametrize('granularity', ['connection', 'feature'])
@pytest.mark.parametrize('target', ['all', 'layers', 'macs'])
def test_a_leaf_without_connections_is_left_alone(target, granularity):
  params = {'a': jnp.ones((4, 6)), 'b': jnp.ones((0, 3)), 'c': jnp.ones((6, 5))}
  params['a'] = params['a'] * jnp.arange(1.0, 7)[None]
  make = functools.partial(
    scl_jax.scl, freeze_step=4, granularity=granularity, prunable='.*'
  )
  if target == 'all':
    rule = make(target_density=0.5)
  elif target == 'layers':
    rule = make(target_density={'b': 0.1, '.*': 0.5})
  else:
    rule = make(target_macs=0.5, costs={'a': 2, 'b': 3, 'c': 1})
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)
  state = tx.init(params)
  step = jax.jit(tx.update)
  for _ in range(6):
    _, state = step(params, state, params)
    for leaf in jax.tree.leaves(state):
      assert jnp.all(jnp.isfinite(leaf))
  live = scl_jax.live_connections(scl_jax.get_masks(state))
  assert live['b'] == 0
  if granularity == 'connection':
    cost = {'a': 2 if target == 'macs' else 1, 'c': 1}
    total = 24 * cost['a'] + 30
    spent = live['a'] * cost['a'] + live['c']
    assert total / 2 - cost['a'] < spent <= total / 2
  assert not [
    finding
    for finding in scl_jax.diagnose(state, 0)
    if "'b'" in finding.message
  ]


def test_targets_that_leave_nothing_beside_a_leaf_without_connections():
  params = {'a': jnp.ones((4, 6)), 'b': jnp.ones((0, 3))}
  macs = {'target_macs': 0.01, 'costs': {'a': 2, 'b': 3}}
  for target in ({'target_density': 0.02}, macs):
    for granularity in ('connection', 'feature'):
      rule = scl_jax.scl(
        **target, freeze_step=4, granularity=granularity, prunable='.*'
      )
      with pytest.raises(ValueError, match='cannot be reached'):
        rule.init(params)


def test_a_cut_beyond_the_range_of_int32():
  rng = np.random.default_rng(0)
  scores = {'a': jnp.asarray(rng.normal(size=50), jnp.float32)}
  scores['b'] = jnp.asarray(rng.normal(size=30), jnp.float32)
  rates = {'a': 3 * 10**9, 'b': 10**9 + 7}
  flat = np.concatenate([scores['a'], scores['b']])
  prices = np.repeat([rates['a'], rates['b']], [50, 30])
  order = np.argsort(-flat)
  for budget in (0, 10**9, 77 * 10**9, 2**40):
    kept = order[np.cumsum(prices[order]) <= budget]
    masks = thresholding.keep_highest(
      scores, wide.from_int(budget), rates=jax.tree.map(np.uint32, rates)
    )
    np.testing.assert_array_equal(
      np.flatnonzero(np.concatenate([masks['a'], masks['b']])), np.sort(kept)
    )
