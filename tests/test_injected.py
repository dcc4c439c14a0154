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
"""optax.inject_hyperparams makes arrays of all numbers, traced in each step."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import scl_jax

PARAMS = {'w': jnp.arange(1.0, 13.0).reshape(4, 3) / 12}


def scl(freeze_step, ramp, box, init_value, feature_price, mask_optimizer):
  rule = scl_jax.scl(
    target_density=0.5,
    freeze_step=freeze_step,
    ramp=ramp,
    box=box,
    init_value=init_value,
    feature_price=feature_price,
    mask_optimizer=mask_optimizer,
  )
  return scl_jax.sparsify(optax.sgd(0.1), rule)


def magnitude(density, begin_step, end_step):
  rule = scl_jax.gradual_magnitude(
    density, begin_step=begin_step, end_step=end_step
  )
  return scl_jax.sparsify(optax.sgd(0.1), rule)


@pytest.mark.parametrize(
  ('make', 'numbers'),
  [(scl, [3, 0.5, 0.4, 0.2, 0.5, 0.1]), (magnitude, [0.5, 1, 3])],
)
def test_numbers_of_a_rule(make, numbers):
  results = []
  for tx in (make(*numbers), optax.inject_hyperparams(make)(*numbers)):
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for _ in range(4):
      _, state = update(PARAMS, state, PARAMS)
    results.append(scl_jax.get_sparsify_state(state).rule_state)
  chex.assert_trees_all_close(*results, rtol=1e-6)
  assert int(jnp.sum(results[1].masks['w'])) == 6
