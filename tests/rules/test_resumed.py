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
"""States that go on under a rule with other arguments."""

import jax
import optax
import pytest

import scl_jax
from scl_jax import testing

KEY = jax.random.key(0)
ENDS = {
  'scl': lambda end: scl_jax.scl(
    target_density=0.3, freeze_step=end, mask_optimizer=optax.sgd(0.02)
  ),
  # It acts in the step of that number, and so is done after one more.
  'gradual_magnitude': lambda end: scl_jax.gradual_magnitude(
    0.3, end_step=end - 1, update_every=2
  ),
}
RULES = {
  'scl': scl_jax.scl(penalty=0.1),
  'scl, target': scl_jax.scl(target_density=0.3, freeze_step=5),
  'gradual_magnitude': scl_jax.gradual_magnitude(0.3, end_step=5),
  'rigl': scl_jax.rigl(0.3, key=KEY, end_step=5),
  'snip': scl_jax.snip(0.3),
  'dynamic_sparse_training': scl_jax.dynamic_sparse_training(0.1),
  'soft_threshold': scl_jax.soft_threshold(0.1),
}


def train(tx, params, state, steps):
  """Returns params, state and the density after each step."""

  def step(carry, _):
    params, state = carry
    grads = jax.grad(testing.loss)(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), scl_jax.density(scl_jax.get_masks(state))

  carry, densities = jax.lax.scan(step, (params, state), None, steps)
  return *carry, densities.tolist()


@pytest.mark.parametrize('name', ENDS)
@pytest.mark.parametrize(('end', 'reached'), [(4, 11), (15, 15), (60, 60)])
def test_another_end(name, end, reached):
  """It is reached then, or at once where that has passed."""
  sparsify = lambda end: scl_jax.sparsify(optax.sgd(0.1), ENDS[name](end))
  params = testing.make_params()
  before, after = sparsify(40), sparsify(end)
  params, state, _ = train(before, params, before.init(params), 10)
  _, state, densities = train(after, params, state, 55)
  assert all(abs(d - 0.3) < 0.011 for d in densities[reached - 11 :])
  assert len({*densities[reached - 11 :]}) == 1
  if name == 'scl':
    assert int(state.rule_state.freeze_step) == reached
  else:
    assert (densities[0] > 0.31) == (reached > 11)


@pytest.mark.parametrize('name', RULES)
def test_states_of_other_rules(name):
  params = testing.make_params()
  tx = scl_jax.sparsify(optax.sgd(0.1), RULES[name])
  own = tx.init(params)
  for other, rule in RULES.items():
    state = scl_jax.sparsify(optax.sgd(0.1), rule).init(params)
    is_alike = jax.tree.structure(state) == jax.tree.structure(own)
    assert is_alike == (other == name), other
    if not is_alike:
      with pytest.raises(ValueError, match='made by another rule'):
        tx.update(params, state, params)
