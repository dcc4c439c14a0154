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
"""A given penalty is that of the rule that updates, not of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

PARAMS = {'w': jnp.full((3, 2), 0.5)}
ZEROS = {'w': jnp.zeros((3, 2))}
UNIT = optax.sgd(1.0)
RULES = {
  'scl': lambda p: scl_jax.scl(
    penalty=p, normalizer=None, box=None, mask_optimizer=UNIT
  ),
  'dst': lambda p: scl_jax.dynamic_sparse_training(p, mask_optimizer=UNIT),
  'str': lambda p: scl_jax.soft_threshold(
    p, init_value=-1.0, mask_optimizer=UNIT
  ),
}
# Start and slope of a mask variable: without a gradient it moves by slope × λ.
STEPS = {
  'scl': (0.3, lambda m: -1.0),
  'dst': (0.0, lambda m: np.exp(-m)),
  'str': (-1.0, lambda m: -m),
}
names = pytest.mark.parametrize('name', RULES)


def make(name, penalty):
  return scl_jax.sparsify(optax.sgd(0.0), RULES[name](penalty))


def expected(name, penalties):
  m, slope = STEPS[name]
  for penalty in penalties:
    m += penalty * slope(m)
  return m


def mask_variable(state):
  mask_params = scl_jax.get_sparsify_state(state).rule_state.mask_params
  return float(mask_params['w'].ravel()[0])


@names
def test_traced_at_update(name):
  step = jax.jit(lambda s, p: make(name, p).update(ZEROS, s, PARAMS)[1])
  state = make(name, 0.0).init(PARAMS)
  for penalty in (0.2, 0.05):
    state = step(state, penalty)
  assert mask_variable(state) == pytest.approx(expected(name, [0.2, 0.05]))
  recorded = (
    state.rule_state.decay if name == 'str' else (state.rule_state.penalty)
  )
  assert float(recorded) == pytest.approx(0.05)


@names
def test_a_number_of_another_rule(name):
  state = make(name, 0.1).init(PARAMS)
  _, state = make(name, 0.2).update(ZEROS, state, PARAMS)
  assert mask_variable(state) == pytest.approx(expected(name, [0.2]))


@names
def test_inject_hyperparams(name):
  tx = optax.inject_hyperparams(lambda lam: make(name, lam))(
    lam=lambda count: 0.01 * count
  )
  state, update = tx.init(PARAMS), jax.jit(tx.update)
  for _ in range(4):
    _, state = update(ZEROS, state, PARAMS)
  values = [0.0, 0.01, 0.02, 0.03]
  assert mask_variable(state) == pytest.approx(expected(name, values))


@names
def test_an_injected_number_can_be_set(name):
  tx = optax.inject_hyperparams(lambda lam: make(name, lam))(lam=0.0)
  state = optax.tree.set(tx.init(PARAMS), lam=jnp.float32(0.25))
  _, state = jax.jit(tx.update)(ZEROS, state, PARAMS)
  assert mask_variable(state) == pytest.approx(expected(name, [0.25]))


@names
def test_vmap_over_penalties_and_their_states(name):
  penalties = jnp.array([0.0, 0.05, 0.3])
  states = jax.vmap(lambda p: make(name, p).init(PARAMS))(penalties)
  step = lambda p, state: make(name, p).update(ZEROS, state, PARAMS)[1]
  states = jax.jit(jax.vmap(step))(penalties, states)
  np.testing.assert_allclose(
    states.rule_state.mask_params['w'].reshape(3, -1)[:, 0],
    [expected(name, [p]) for p in (0.0, 0.05, 0.3)],
    rtol=1e-6,
  )
