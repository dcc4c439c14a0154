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
"""The rule `scl`: its parts, its phases, its errors."""

import functools
import itertools

import chex
import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

NUM_STEPS = 120
INPUTS = jax.random.normal(jax.random.key(0), (64, 20))
# Only the first four of twenty inputs matter.
TARGETS = INPUTS[:, :4] @ jax.random.normal(jax.random.key(1), (4, 3))


def loss_fn(params):
  return jnp.mean((INPUTS @ params['w'] + params['b'] - TARGETS) ** 2)


def init_params(dtype=jnp.float32):
  w = jax.random.normal(jax.random.key(2), (20, 3)) * 0.3
  return {'w': w.astype(dtype), 'b': jnp.zeros(3, dtype)}


@functools.partial(jax.jit, static_argnums=0)
def one_step(tx, params, state):
  updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
  return optax.apply_updates(params, updates), state


def train(rule, steps=NUM_STEPS, params=None):
  tx = scl_jax.sparsify(optax.adam(3e-2), rule)
  params = init_params() if params is None else params
  state, states = tx.init(params), []
  for _ in range(steps):
    params, state = one_step(tx, params, state)
    states.append(state)
  return params, states


def masks_of(state):
  return np.asarray(scl_jax.get_masks(state)['w'])


def penalty_of(state):
  return float(optax.tree.get(state, 'penalty'))


@pytest.mark.parametrize('value', [None, jnp.ones(2)])
def test_a_schedule_must_give_a_number(value):
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.scl(penalty=lambda _: value))
  params = {'w': jnp.ones((2, 2))}
  with pytest.raises(ValueError, match='a schedule that gives one'):
    tx.update(params, tx.init(params), params)


class TestLearning:
  @pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
  def test_finds_the_connections_that_matter(self, dtype):
    rule = scl_jax.scl(penalty=0.02, freeze_step=450, mask_dtype=dtype)
    _, states = train(rule, steps=600)
    mask = masks_of(states[-1])
    assert mask[:4].mean() > 0.9
    assert mask[4:].mean() < 0.1

  def test_a_higher_penalty_leaves_fewer_connections(self):
    counts = [
      masks_of(train(scl_jax.scl(penalty=p), steps=300)[1][-1]).sum()
      for p in (0.0, 0.05, 0.5)
    ]
    assert counts[0] > counts[1] > counts[2]

  def test_connections_come_back_when_they_are_needed(self):
    """With the weights that they had, and no others."""
    rule = scl_jax.scl(penalty=0.01, init_value=-0.1, freeze_step=450)
    params, states = train(rule, steps=600)
    assert masks_of(states[0]).sum() == 0
    # Only where the stored weight has the right sign does a return help.
    weights = init_params()['w']
    helps = np.sign(weights) == np.sign(INPUTS.T @ TARGETS)
    opened = masks_of(states[-1])
    assert opened[:4][helps[:4]].mean() > opened[:4][~helps[:4]].mean()
    assert opened[:4][helps[:4]].any()
    assert np.count_nonzero(params['w']) == opened.sum()

  def test_an_update_is_the_documented_formula(self):
    """Twenty steps against NumPy, with the default recipe."""
    rule = scl_jax.scl(penalty=0.02)
    weights = jax.tree.map(np.asarray, init_params())
    state = rule.init(weights)
    m = np.full((20, 3), 0.3, np.float32)
    v = np.zeros((1, 3))
    for step in range(20):
      g = np.asarray(
        jax.random.normal(jax.random.key(step), (20, 3)), np.float64
      )
      state = rule.update({'w': jnp.float32(g), 'b': None}, state, weights)
      gm = g * weights['w']
      if step % 8 == 0:
        v = 0.92 * v + 0.08 * (gm**2).sum(0, keepdims=True)
      n = gm / np.sqrt(v / (1 - 0.92 ** (step // 8 + 1)))
      m = np.clip(m - 0.05 * (n + 0.02), -0.3, 0.3)
      np.testing.assert_allclose(
        state.mask_params['w'], m, rtol=2e-5, atol=1e-5
      )

  def test_penalty_before_the_normaliser_is_normalised_with_it(self):
    rule = scl_jax.scl(
      penalty=0.5,
      penalty_order='before',
      normalizer=scl_jax.normalize_by_feature_norm(),
      mask_optimizer=optax.sgd(1.0),
      box=None,
    )
    weights = init_params()
    g = jax.random.normal(jax.random.key(3), (20, 3))
    new = rule.update({'w': g, 'b': None}, rule.init(weights), weights)
    gm = np.asarray(g * weights['w'] + 0.5)
    np.testing.assert_allclose(
      0.3 - new.mask_params['w'], gm / np.linalg.norm(gm, axis=0), rtol=1e-4
    )

  def test_granularity_feature_closes_whole_features(self):
    rule = scl_jax.scl(
      penalty=0.01,
      granularity='feature',
      prunable='w',
      feature_axes={'w': 0},
      freeze_step=450,
    )
    _, states = train(rule, steps=600)
    mask = masks_of(states[-1])
    np.testing.assert_array_equal(mask, mask[:, :1] * np.ones((1, 3)))
    assert mask[:4].all()
    assert mask[4:].mean() < 0.2

  def test_granularity_block(self):
    _, states = train(scl_jax.scl(penalty=0.02, granularity=(4, 3)), steps=600)
    blocks = masks_of(states[-1]).reshape(5, 12)
    assert set(blocks.sum(1)) <= {0, 12}
    assert blocks[0].all()
    assert blocks.sum() < 60


class TestPenalty:
  def test_forms_agree(self):
    forms = [0.02, np.float32(0.02), jnp.float32(0.02), lambda _: 0.02]
    results = [train(scl_jax.scl(penalty=p), 20)[0] for p in forms]
    for result in results[1:]:
      chex.assert_trees_all_close(result, results[0], atol=1e-6)

  def test_a_schedule_is_followed(self):
    rule = scl_jax.scl(penalty=optax.linear_schedule(0.0, 0.1, 10))
    _, states = train(rule, 10)
    np.testing.assert_allclose(
      [penalty_of(state) for state in states], np.arange(10) / 100, atol=1e-6
    )

  def test_float32_can_resolve_the_smallest_useful_step(self):
    """At λ = 1e-4 a mask variable still moves (λ that does nothing)."""
    tx = scl_jax.sparsify(optax.sgd(0.0), scl_jax.scl(penalty=1e-4))
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), init_params())
    zeros = jax.tree.map(jnp.zeros_like, params)
    _, state = tx.update(zeros, tx.init(params), params)
    assert np.all(state.rule_state.mask_params['w'] < 0.3)


class TestFreeze:
  def test_masks_are_fixed_and_weights_are_not(self):
    rule = scl_jax.scl(penalty=0.05, freeze_step=80)
    _, states = train(rule)
    frozen = masks_of(states[79])
    assert 0 < frozen.mean() < 1
    moved = [
      not np.array_equal(masks_of(a), masks_of(b))
      for a, b in itertools.pairwise(states[:80])
    ]
    assert any(moved)
    for state in states[80:]:
      np.testing.assert_array_equal(masks_of(state), frozen)
    assert np.any(states[-1].weights['w'] != states[79].weights['w'])
    assert int(states[-1].rule_state.count) == NUM_STEPS

  @pytest.mark.parametrize(
    ('arguments', 'rate'), [({}, 0.05), ({'mask_optimizer': 0.2}, 0.2)]
  )
  def test_mask_learning_rate_falls_to_zero(self, arguments, rate):
    weights = init_params()
    rule = scl_jax.scl(
      penalty=1.0, freeze_step=10, normalizer=None, box=None, **arguments
    )
    state, values = rule.init(weights), [0.3]
    zeros = jax.tree.map(jnp.zeros_like, weights)
    for _ in range(12):
      state = rule.update(zeros, state, weights)
      values.append(float(state.mask_params['w'][0, 0]))
    expected = [rate] * 8 + [rate * 2 / 3, rate / 3] + [0] * 2
    np.testing.assert_allclose(-np.diff(values), expected, atol=1e-6)


class TestTargetDensity:
  @pytest.mark.parametrize('target', [0.5, 0.2, 1 / 60, 1.0])
  def test_is_exact_after_the_freeze(self, target):
    rule = scl_jax.scl(target_density=target, freeze_step=90)
    _, states = train(rule)
    for state in states[89:]:
      assert masks_of(state).sum() == round(target * 60)

  def test_keeps_what_matters(self):
    rule = scl_jax.scl(target_density=0.2, freeze_step=400)
    params, states = train(rule, 600)
    assert masks_of(states[-1])[:4].mean() > 0.9
    assert loss_fn(params) < 0.05

  def test_lands_near_the_target_before_the_cut(self):
    key = jax.random.key(0)
    inputs = jax.random.normal(key, (256, 64))
    teacher = jax.random.normal(jax.random.key(1), (64, 32))
    teacher *= jax.random.uniform(jax.random.key(2), (64, 32)) < 0.2
    tx = scl_jax.sparsify(
      optax.adam(1e-2), scl_jax.scl(target_density=0.2, freeze_step=1000)
    )

    @jax.jit
    def step(params, state, key):
      rows = jax.random.randint(key, (32,), 0, 256)
      grads = jax.grad(
        lambda p: jnp.mean((inputs[rows] @ (p['w'] - teacher)) ** 2)
      )(params)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    params = {'w': jax.random.normal(key, (64, 32)) * 0.1}
    state = tx.init(params)
    for index in range(999):
      params, state = step(params, state, jax.random.fold_in(key, index))
    assert 0.18 < scl_jax.density(scl_jax.get_masks(state)) <= 0.2
    _, state = step(params, state, key)
    assert masks_of(state).sum() == round(0.2 * 64 * 32)

  def test_vmap_over_targets(self):
    params = init_params()

    def live(target):
      tx = scl_jax.sparsify(
        optax.adam(3e-2),
        scl_jax.scl(target_density=target, freeze_step=60),
      )

      def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss_fn)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

      (_, state), _ = jax.lax.scan(body, (params, tx.init(params)), None, 80)
      return jnp.sum(scl_jax.get_masks(state)['w'])

    counts = jax.jit(jax.vmap(live))(jnp.array([0.1, 0.25, 0.5]))
    np.testing.assert_array_equal(counts, [6, 15, 30])

  @pytest.mark.parametrize('granularity', ['feature', (5, 1)])
  def test_of_groups_lands_at_or_below(self, granularity):
    rule = scl_jax.scl(
      target_density=0.4,
      freeze_step=60,
      granularity=granularity,
      feature_axes=(0,),
    )
    _, states = train(rule)
    count = masks_of(states[-1]).sum()
    group = 3 if granularity == 'feature' else 5
    assert 24 - group < count <= 24


class TestShortMaskVariables:
  def test_small_steps_add_up(self):
    # To the nearest bfloat16 each of these steps would be rounded away.
    step, steps = 1e-4, 1000
    rule = scl_jax.scl(
      penalty=step,
      normalizer=None,
      mask_optimizer=optax.sgd(1.0),
      mask_dtype=jnp.bfloat16,
    )
    weights = {'w': jnp.ones((100, 50))}
    state = rule.init(weights)
    assert state.mask_params['w'].dtype == jnp.bfloat16
    update = jax.jit(rule.update)
    for _ in range(steps):
      state = update(jax.tree.map(jnp.zeros_like, weights), state, weights)
    moved = np.asarray(state.mask_params['w'], np.float64) - 0.3
    np.testing.assert_allclose(moved.mean(), -step * steps, rtol=0.02)


class TestErrors:
  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ({}, 'exactly one of penalty, target_density and'),
      (
        {'penalty': 0.1, 'target_density': 0.1, 'freeze_step': 9},
        'exactly one of',
      ),
      ({'penalty': -0.1}, 'penalty must be finite and >= 0, got -0.1'),
      ({'penalty': float('nan')}, 'penalty must be finite'),
      ({'penalty': float('inf')}, 'penalty must be finite'),
      ({'penalty': jnp.float32(-1)}, 'penalty must be finite'),
      ({'penalty': np.ones(3)}, 'penalty must be one number'),
      ({'penalty': '0.1'}, 'penalty must be'),
      ({'target_density': 0.1}, 'needs freeze_step'),
      ({'target_density': 0.0, 'freeze_step': 9}, r'in \(0, 1\], got 0.0'),
      ({'target_density': 1.1, 'freeze_step': 9}, r'in \(0, 1\], got 1.1'),
      ({'penalty': 0.1, 'freeze_step': 0}, 'freeze_step must be a whole'),
      ({'penalty': 0.1, 'freeze_step': 2.5}, 'freeze_step must be a whole'),
      ({'penalty': 0.1, 'ramp': 0.0}, 'ramp must be'),
      ({'penalty': 0.1, 'box': 0.0}, 'box must be > 0'),
      ({'penalty': 0.1, 'mask_optimizer': 0}, 'mask_optimizer must be a n'),
      ({'penalty': 0.1, 'mask_optimizer': None}, 'mask_optimizer must be a n'),
      ({'penalty': 0.1, 'box': 0.1}, 'init_value must be finite and within'),
      ({'penalty': 0.1, 'init_value': np.inf}, 'init_value must be finite'),
      ({'penalty': 0.1, 'estimator': 'step'}, "identity.*got 'step'"),
      ({'penalty': 0.1, 'penalty_order': 'first'}, "got 'first'"),
      ({'penalty': 0.1, 'normalizer': 'batch'}, 'normalizer must be'),
      ({'penalty': 0.1, 'mask_dtype': jnp.float16}, 'mask_dtype must be'),
      ({'penalty': 0.1, 'granularity': 'filter'}, "ty must be.*got 'filter'"),
      ({'penalty': 0.1, 'granularity': (2, 0)}, 'granularity must be'),
    ],
  )
  def test_arguments(self, arguments, message):
    with pytest.raises(ValueError, match=message):
      scl_jax.scl(**arguments)

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ({'granularity': (1, 2, 3)}, 'more axes than'),
      ({'feature_axes': 2}, 'out of range'),
      ({'feature_axes': {'v': 0}}, "'v' matches no prunable leaf"),
      ({'prunable': ['v']}, "(?s)'v' matches no leaf.*'w  "),
      ({'prunable': lambda path, leaf: False}, 'selects no leaf'),
    ],
  )
  def test_what_does_not_fit_the_weights(self, arguments, message):
    rule = scl_jax.scl(penalty=0.1, **arguments)
    with pytest.raises(ValueError, match=message):
      rule.init(init_params())

  def test_a_traced_penalty_is_allowed(self):
    @jax.jit
    def density(penalty):
      rule = scl_jax.scl(penalty=penalty)
      return scl_jax.density(rule.init(init_params()).masks)

    assert density(0.1) == 1.0


def _branches(jaxpr):
  """All `cond` of a jaxpr, those within others too."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'cond':
      yield equation
    for inner in jax_core.jaxprs_in_params(equation.params):
      yield from _branches(inner)


@pytest.mark.parametrize('amount', [{'penalty': 0.01}, {'target_density': 0.1}])
def test_no_branch_returns_an_array_of_a_weights_size(amount):
  """A branch copies what it passes on, in every step, on a CPU."""
  rule = scl_jax.scl(**amount, freeze_step=50)
  params = init_params()
  tx = scl_jax.sparsify(optax.adam(1e-3), rule)
  step = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
  branches = list(_branches(step.jaxpr))
  assert branches
  sizes = [out.aval.size for branch in branches for out in branch.outvars]
  assert max(sizes) < params['w'].size
