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
"""Tests of doctor.py and of what it rests on, reachability.py and motion.py."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import reachability

PARAMS = {'a': {'kernel': jnp.ones((6, 5))}, 'b': {'kernel': jnp.ones((5, 4))}}
X = jax.ShapeDtypeStruct((1, 6), jnp.float32)


def model(params, x):
  hidden = jax.nn.relu(x @ params['a']['kernel'] + 1.0)
  return jax.nn.softmax(hidden @ params['b']['kernel'])


def make_state(count, a=0.3, b=0.3, changed=-1, **arguments):
  """A state as it may be after `count` steps."""
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.scl(**arguments))
  state = tx.init(PARAMS)
  rule = state.rule_state
  return state._replace(
    rule_state=rule._replace(
      count=jnp.int32(count),
      mask_params={
        'a': {'kernel': jnp.broadcast_to(jnp.float32(a), (6, 5))},
        'b': {'kernel': jnp.broadcast_to(jnp.float32(b), (5, 4))},
      },
      motion_state=rule.motion_state._replace(changed=jnp.int32(changed)),
    )
  )


def codes(*arguments, **options):
  return [f.code for f in scl_jax.diagnose(*arguments, **options)]


def test_layer_collapse():
  state = make_state(90, a=-0.1, changed=80, penalty=0.1)
  (finding,) = scl_jax.diagnose(state, 10)
  assert finding.code == 'collapse'
  assert "'a/kernel' has density 0" in finding.message
  (finding,) = scl_jax.diagnose(state, 10, groups={'first': 'a/.*'})
  assert "layers of 'first'" in finding.message
  # One layer of the group is alive: only the dead one is told of.
  (finding,) = scl_jax.diagnose(state, 10, groups={'all': ['a/.*', 'b/.*']})
  assert "Layer 'a/kernel'" in finding.message
  assert codes(make_state(0, a=-0.1, penalty=0.1), 10) == []


def test_a_penalty_that_moves_nothing():
  weak = make_state(100, a=0.29, b=0.295, penalty=1e-5)
  assert codes(weak, 900) == ['penalty']
  # At this pace they get there, or too little was seen to tell.
  assert codes(make_state(100, a=0.2, penalty=0.01), 900) == []
  assert codes(make_state(20, a=0.29, penalty=0.01), 900) == []
  assert codes(make_state(100, a=0.29, changed=90, penalty=0.01), 900) == []


def test_masks_that_stopped():
  options = {'penalty': 0.01, 'freeze_step': 1000}
  assert codes(make_state(900, changed=400, **options), 300) == ['stopped']
  assert codes(make_state(1200, changed=400, **options), 0) == ['stopped']
  assert codes(make_state(900, changed=800, **options), 300) == []


def test_all_masks_closed_in_the_first_step():
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.scl(penalty=10.0))
  state, update = tx.init(PARAMS), jax.jit(tx.update)
  for _ in range(30):
    _, state = update(PARAMS, state, PARAMS)
  # Not also that no mask has crossed 0.
  assert codes(state, 50) == ['collapse', 'collapse']


def test_what_went_wrong_before_the_cut_is_told_after_it():
  rule = scl_jax.scl(target_density=0.1, freeze_step=200, mask_optimizer=1e-5)
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)
  state, update = tx.init(PARAMS), jax.jit(tx.update)
  for _ in range(300):
    _, state = update(PARAMS, state, PARAMS)
  assert scl_jax.density(scl_jax.get_masks(state)) == 0.1  # of the cut
  found = scl_jax.diagnose(state, 0)
  (message,) = (f.message for f in found if f.code == 'stopped')
  assert 'from step 0 to step 200' in message
  assert 'raise the learning rate' in message


@pytest.mark.parametrize(
  'rule', [scl_jax.scl(penalty=0.1), scl_jax.dynamic_sparse_training(0.1)]
)
def test_mask_variables_that_are_nan(rule):
  state = scl_jax.sparsify(optax.sgd(0.1), rule).init(PARAMS)
  lost = jax.tree.map(
    lambda m: m.at[0].set(jnp.nan), state.rule_state.mask_params
  )
  lost = state.rule_state._replace(count=jnp.int32(30), mask_params=lost)
  (finding,) = scl_jax.diagnose(state._replace(rule_state=lost), 50)
  assert finding.code == 'nan'
  first_rows = sum(m[0].size for m in jax.tree.leaves(lost.mask_params))
  assert finding.message.startswith(f'{first_rows} of ')


@pytest.mark.parametrize(
  'rule', [scl_jax.scl(penalty=0.1), scl_jax.gradual_magnitude(0.5, end_step=9)]
)
@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_weights_that_are_not_finite(rule, value):
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)
  state = tx.init(PARAMS)
  grads = jax.tree.map(lambda p: p.at[..., 0].set(value), PARAMS)
  _, state = tx.update(grads, state, PARAMS)
  (finding,) = scl_jax.diagnose(state, 50)
  lost = sum(g[..., 0].size for g in jax.tree.leaves(grads))
  total = sum(g.size for g in jax.tree.leaves(grads))
  assert finding.code == 'nan'
  assert finding.message.startswith(f'{lost} of {total} weights')


def test_a_target_that_will_be_missed():
  options = {'target_density': 0.5, 'freeze_step': 1000, 'changed': 940}
  state = make_state(950, **options)
  found = scl_jax.diagnose(state, 20)
  assert [f.code for f in found] == ['target']
  assert 'ends 30 steps before freeze_step=1000' in found[0].message
  assert 'density is now 100 %' in found[0].message
  (finding,) = scl_jax.diagnose(state, 300)
  assert 'is 100 % and the target 50 %, with 50 steps' in finding.message
  (finding,) = scl_jax.diagnose(make_state(1000, **options), 0)
  assert 'The cut at freeze_step=1000 closed' in finding.message
  assert 'at once, from 100 % to 50 %, which costs accuracy' in finding.message
  options['target_density'] = {'a/.*': 0.5, '.*': 1.0}
  (finding,) = scl_jax.diagnose(make_state(950, **options), 300)
  assert "in 'a/kernel'" in finding.message


@pytest.mark.parametrize('target', [1.0, {'.*': 1.0}])
def test_a_target_of_all_connections_needs_no_change(target):
  state = make_state(400, target_density=target, freeze_step=400)
  assert codes(state, 100) == []
  state = make_state(
    400, target_density={'a/.*': 0.5, '.*': 1.0}, freeze_step=400
  )
  assert 'stopped' in codes(state, 100)


def test_densities_of_layers_are_those_that_were_seen():
  tx = scl_jax.sparsify(
    optax.sgd(0.1), scl_jax.scl(target_density={'.*': 0.2}, freeze_step=9)
  )
  _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
  seen = state.rule_state.control_state.density['a']['kernel']
  np.testing.assert_array_equal(seen, 1.0)


@pytest.mark.parametrize(
  ('optimizer', 'rule'),
  [
    (optax.sgd(0.1), scl_jax.scl(penalty=0.1)),
    (optax.sgd(0.1), scl_jax.gradual_magnitude(0.5, end_step=9)),
    (optax.adam(0.1), scl_jax.random_pruning(0.5, key=jax.random.key(0))),
  ],
)
def test_the_state_of_several_networks(optimizer, rule):
  tx = scl_jax.sparsify(optimizer, rule)
  states = jax.vmap(tx.init)(jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS))
  with pytest.raises(ValueError, match='opt_state is of several networks'):
    scl_jax.diagnose(states, 10)
  assert codes(jax.tree.map(lambda x: x[0], states), 10) == []


def test_a_cut_that_closed_many():
  """After it, the density that was seen before it, by masks counted here."""
  tx = scl_jax.sparsify(
    optax.sgd(0.1), scl_jax.scl(target_density=0.1, freeze_step=6)
  )
  params, state = PARAMS, tx.init(PARAMS)
  x = jax.random.normal(jax.random.key(0), (8, 6))
  for count in range(8):
    if count == 5:
      before = float(scl_jax.density(scl_jax.get_masks(state)))
    grads = jax.grad(lambda p: jnp.sum(model(p, x) ** 2))(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert before > 0.5
  (finding,) = [f for f in scl_jax.diagnose(state, 0) if f.code == 'target']
  assert f'at once, from {100 * before:.4g} % to 10 %' in finding.message


def test_a_cut_that_opened_many():
  """The controller saw a fifth of the target; 0.2 below it is no matter."""
  state = make_state(
    1000, target_density=0.5, freeze_step=1000, changed=940, a=0.1, b=0.2
  )
  rule = state.rule_state

  def found(density):
    seen = rule.control_state._replace(density=jnp.float32(density))
    seen = rule._replace(control_state=seen)
    return scl_jax.diagnose(state._replace(rule_state=seen), 0)

  (finding,) = found(0.1)
  assert 'opened most of what is live again, from 10 % to 50' in finding.message
  assert not found(0.4)


def test_live_connections_on_no_path():
  a = np.full((6, 5), 0.1)
  b = np.full((5, 4), 0.1)
  b[:2] = -0.1  # nobody reads two of five hidden units
  state = make_state(90, a=a, b=b, changed=80, penalty=0.1)
  options = {'fn': model, 'params': PARAMS, 'inputs': [X]}
  (finding,) = scl_jax.diagnose(state, 10, **options)
  assert finding.code == 'path'
  assert "12 of 30 live connections of 'a/kernel'" in finding.message
  assert codes(make_state(90, changed=80, penalty=0.1), 10, **options) == []


def test_other_rules():
  """Only what applies to all: layers."""

  class State(NamedTuple):
    masks: Any

  masks = {'a': {'kernel': jnp.zeros((6, 5))}, 'b': {'kernel': None}}
  state = scl_jax.SparsifyState(PARAMS, State(masks), None)
  assert codes(state, 10) == ['collapse']


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'steps_left': -1}, 'steps_left must be finite and >= 0, got -1'),
    (
      {'steps_left': float('nan')},
      'steps_left must be finite and >= 0, got na',
    ),
    ({'steps_left': '10'}, "steps_left must be finite and >= 0, got '10'"),
    ({'steps_left': 1, 'fn': model}, 'fn needs params'),
    (
      {'steps_left': 1, 'inputs': jnp.ones(3)},
      'inputs must be a list or tuple',
    ),
    ({'steps_left': 1, 'groups': ['a']}, "groups must be a mapping.*got \\['a"),
    ({'steps_left': 1, 'groups': {'x': 3}}, r"groups\['x'\] must be a .*got 3"),
    ({'steps_left': 1, 'groups': {'x': 'c'}}, "(?s)'x'.*'a/kernel'"),
    (
      {'steps_left': 1, 'groups': {'x': []}},
      r"groups\['x'\] must be a .*got \[\]",
    ),
    (
      {'steps_left': 1, 'groups': {'x': ['a/.*', 'c']}},
      r"(?s)groups\['x'\] pattern 'c' matches no .*'a/kernel'",
    ),
    ({'steps_left': 1, 'groups': {'x': '('}}, "'x'.* is no regular expression"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    scl_jax.diagnose(make_state(9, penalty=0.1), **options)


def test_groups_are_checked_before_the_first_step():
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.scl(penalty=0.1))
  state = tx.init({'a': {'kernel': jnp.ones((2, 2))}})
  with pytest.raises(ValueError, match="pattern 'c' matches no"):
    scl_jax.diagnose(state, 9, groups={'x': 'c'})


@pytest.mark.parametrize('freeze_step', [None, 600])
def test_leaves_without_connections(freeze_step):
  rule = scl_jax.scl(penalty=0.1, freeze_step=freeze_step)
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)
  params = {'w': jnp.ones((0, 4))}
  state = tx.init(params)
  for _ in range(70):
    _, state = tx.update(params, state, params)
  assert scl_jax.diagnose(state, 500) == []


def convolutional(p, x):
  x = jax.lax.conv_general_dilated(
    x, p['c'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  x = jax.lax.reduce_window(
    jax.nn.gelu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
  )
  x = x.reshape(x.shape[0], -1) @ p['d']
  return x + jax.jit(jnp.tanh)(x @ p['e'])


@pytest.mark.parametrize('seed', range(3))
def test_paths_against_perturbation(seed):
  """By another route: positive weights, so that no two paths cancel."""
  rng = np.random.default_rng(seed)
  shapes = {'c': (3, 3, 2, 3), 'd': (12, 4), 'e': (4, 4)}
  masks = {
    k: (rng.random(s) < 0.15).astype(np.float32) for k, s in shapes.items()
  }
  params = {
    k: jnp.asarray(m * rng.uniform(1, 2, m.shape), jnp.float32)
    for k, m in masks.items()
  }
  found = reachability.on_path(
    convolutional, params, [jnp.ones((1, 4, 4, 2))], masks
  )

  def linear(p, x):
    x = jax.lax.conv_general_dilated(
      x, p['c'], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    x = jax.lax.reduce_window(
      x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
    )
    x = x.reshape(1, -1) @ p['d']
    return jnp.sum(x + x @ p['e'])

  grads = jax.grad(linear)(params, jnp.ones((1, 4, 4, 2)))
  for name, mask in masks.items():
    expected = (np.asarray(grads[name]) > 0) & (mask > 0)
    np.testing.assert_array_equal(found[name], expected)


def test_what_is_not_known_is_on_a_path():
  masks = {'w': jnp.eye(3), 'v': jnp.ones((3, 3))}

  def fn(p, x):
    def body(x, _):
      return jnp.tanh(x @ p['w']), None

    x, _ = jax.lax.scan(body, x, None, length=2)
    return jnp.sort(x @ jnp.exp(p['v']), axis=-1)

  found = reachability.on_path(fn, masks, [jnp.ones((1, 3))], masks)
  np.testing.assert_array_equal(found['w'], np.eye(3))
  np.testing.assert_array_equal(found['v'], np.ones((3, 3)))


def test_what_only_moves_against_the_jacobian():
  def fn(x):
    left, right = jnp.split(jnp.pad(x, ((1, 0), (0, 0))), [1], axis=1)
    both = jnp.concatenate([right, left + right[:, :1], jnp.ones((3, 1))], 1)
    first, *_, last = jnp.unstack(jnp.tile(both[::-1].T, (2, 1)), axis=0)
    both = jnp.concatenate([both.T, jnp.stack([first, last, left[:, 0]], 0)])
    return both.reshape(3, -1)

  x = jnp.ones((2, 3))
  each = jnp.eye(x.size).reshape(-1, *x.shape)
  found = jax.vmap(lambda mark: reachability.reached(fn, [x], [mark]))(each)
  expected = jnp.moveaxis(jax.jacobian(fn)(x), (-2, -1), (0, 1)) > 0
  np.testing.assert_array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize(
  'arguments',
  [{'penalty': 0.05}, {'target_density': 0.3}, {'target_density': {'.*': 0.5}}],
)
def test_a_healthy_run_is_quiet(arguments):
  inputs = jax.random.normal(jax.random.key(0), (128, 16))
  teacher = jax.random.normal(jax.random.key(1), (16, 16))
  teacher *= jax.random.uniform(jax.random.key(2), (16, 16)) < 0.3
  keys = jax.random.split(jax.random.key(3))
  params = {
    'a': {'kernel': jax.random.normal(keys[0], (16, 24)) * 0.3},
    'b': {'kernel': jax.random.normal(keys[1], (24, 16)) * 0.3},
  }
  fn = lambda p, x: jax.nn.relu(x @ p['a']['kernel']) @ p['b']['kernel']
  tx = scl_jax.sparsify(
    optax.adam(1e-2), scl_jax.scl(freeze_step=300, **arguments)
  )

  @jax.jit
  def step(params, state, key):
    x = inputs[jax.random.randint(key, (32,), 0, 128)]
    loss = lambda p: jnp.mean((fn(p, x) - jnp.tanh(x @ teacher)) ** 2)
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for count in range(400):
    params, state = step(params, state, jax.random.fold_in(keys[0], count))
    if count % 57 == 0 or count == 399:
      found = scl_jax.diagnose(
        state, 399 - count, fn=fn, params=params, inputs=[inputs[:1]]
      )
      assert found == [], count
