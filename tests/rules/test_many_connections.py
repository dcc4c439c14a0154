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
"""More connections than int32 can count, by shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import scores
from scl_jax import wide
from scl_jax.rules import magnitude

KEY = jax.random.key(0)


def trace(rule, shape=(40000, 25000), leaves=3):
  """Traces `init` and a step of 3 * 10^9 connections."""
  leaf = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
  params = {f'w{index}': leaf for index in range(leaves)}
  tx = scl_jax.sparsify(optax.sgd(0.1), rule)
  state = jax.eval_shape(tx.init, params)
  return jax.eval_shape(tx.update, params, state, params)


@pytest.mark.parametrize(
  'rule',
  [
    scl_jax.scl(target_density=0.02, freeze_step=10),
    scl_jax.scl(target_density={'.*': 0.9}, freeze_step=10),
    scl_jax.gradual_magnitude(0.02, end_step=10),
    scl_jax.gradual_magnitude(0.02, end_step=10, score='lamp'),
    scl_jax.gradual_magnitude(0.9, end_step=10, allocation='uniform'),
    scl_jax.snip(0.02),
    scl_jax.rigl(0.9, key=KEY, end_step=10),
  ],
)
def test_a_step_can_be_traced(rule):
  trace(rule)


@pytest.mark.parametrize(
  'rule',
  [
    scl_jax.scl(target_density=0.9, freeze_step=10),
    scl_jax.gradual_magnitude(0.9, end_step=10),
    scl_jax.snip(0.9),
  ],
)
def test_too_many_to_keep(rule):
  with pytest.raises(
    ValueError, match=r'keep 2700000000.*density for each leaf'
  ):
    trace(rule)


@pytest.mark.parametrize(
  'rule',
  [
    scl_jax.scl(target_density=0.02, freeze_step=10),
    scl_jax.scl(target_density={'.*': 0.02}, freeze_step=10),
    scl_jax.gradual_magnitude(0.02, end_step=10, allocation='uniform'),
    scl_jax.rigl(0.02, key=KEY, end_step=10),
  ],
)
def test_a_leaf_that_is_too_large(rule):
  with pytest.raises(ValueError, match=r"2500000000 connections.*leaf 'w0'"):
    trace(rule, (50000, 50000), 1)


def test_density_can_be_traced():
  masks = {str(i): jax.ShapeDtypeStruct((2**30,), jnp.int8) for i in range(3)}
  assert jax.eval_shape(scl_jax.density, masks).shape == ()


@pytest.mark.parametrize('total', [100, 2**31 - 1, 3 * 10**9, 2**40])
def test_budgets_of_the_cubic(total):
  for left, expected in [(0.0, 7), (0.25, 7 + (total - 7) / 4), (1.0, total)]:
    found = magnitude._between(jnp.int32(7), total, jnp.float32(left))
    np.testing.assert_allclose(
      wide.to_int(found), expected, rtol=1e-6, atol=0.5
    )


def test_a_budget_of_lamp_that_all_fit_into():
  counts = scores.lamp_budgets({'w': jnp.arange(5.0)}, wide.from_int(2**33))
  assert int(counts['w']) == 5
