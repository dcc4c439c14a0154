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
"""Buffers that are donated: nothing that is handed out is in two places."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import scl_jax

RULE = scl_jax.random_pruning(0.5, key=jax.random.key(0))


def make_params():
  return {'w': jnp.ones((4, 3)), 'b': jnp.zeros(3)}


def step_of(tx):
  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state):
    updates, state = tx.update(params, state, params)
    return optax.apply_updates(params, updates), state

  return step


@pytest.mark.parametrize('rule', [RULE, scl_jax.soft_threshold(0.1)])
def test_optimizers_that_keep_what_they_start_from(rule):
  tx = scl_jax.sparsify(optax.contrib.dog(1.0), rule)
  params = make_params()
  step_of(tx)(params, tx.init(params))


def test_params_of_a_state():
  tx = scl_jax.sparsify(optax.sgd(0.1), RULE)
  state = tx.init(make_params())
  step_of(tx)(scl_jax.get_params(state, RULE), state)


def test_rewinding_twice_to_the_same_params():
  tx = scl_jax.sparsify(optax.sgd(0.1), RULE)
  step, early, state = step_of(tx), make_params(), tx.init(make_params())
  for _ in range(2):
    params, state = scl_jax.rewind(tx, state, early)
    _, state = step(params, state)
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(early))
