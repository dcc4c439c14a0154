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
"""Names and sizes of the models."""

import jax
import jax.numpy as jnp
import pytest

from experiments import models
from experiments.models import resnet
import scl_jax


def count(params):
  return sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('name', 'parameters', 'weights', 'macs'),
  [
    ('lenet300', 266_610, 266_200, 266_200),
    ('lenet5', 431_080, 430_500, 2_293_000),
  ],
)
def test_lenets_have_the_published_sizes(name, parameters, weights, macs):
  model = models.create_model(name, 10)
  images = jnp.zeros((1, 28, 28, 1))
  params = model.init(jax.random.key(0), images)['params']
  assert count(params) == parameters
  chosen = scl_jax.prunable(params)
  prunable = jax.tree.map(lambda p, c: p if c else None, params, chosen)
  assert count(prunable) == weights
  costs = scl_jax.costs(
    lambda p, x: model.apply({'params': p}, x), params, images
  )
  total = jax.tree.map(lambda p, c: p.size * c, params, costs)
  assert sum(jax.tree.leaves(total)) == macs


@pytest.mark.parametrize(
  ('depth', 'parameters'), [(20, 269_722), (32, 464_154), (56, 853_018)]
)
def test_resnets_have_the_published_sizes(depth, parameters):
  model = resnet.ResNet(depth)
  variables = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  assert count(variables['params']) == parameters


def total_macs(model, variables, images):
  costs = scl_jax.costs(model.apply, variables, images)
  total = jax.tree.map(lambda p, c: p.size * c, variables, costs)
  return sum(jax.tree.leaves(total))


@pytest.mark.parametrize('depth', [20, 32])
def test_macs_of_resnets_by_hand(depth):
  """Two convolutions of 3x3 a block; shortcuts are free."""
  n = (depth - 2) // 6
  expected = 32 * 32 * 9 * 3 * 16 + 64 * 10
  expected += 2 * n * 32 * 32 * 9 * 16 * 16
  expected += 16 * 16 * 9 * (16 * 32 + (2 * n - 1) * 32 * 32)
  expected += 8 * 8 * 9 * (32 * 64 + (2 * n - 1) * 64 * 64)
  model, images = resnet.ResNet(depth), jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  assert total_macs(model, variables, images) == expected


@pytest.mark.parametrize('name', ['lenet300', 'lenet5'])
def test_macs_of_lenets_against_xla(name):
  model, images = models.create_model(name, 10), jnp.zeros((4, 28, 28, 1))
  variables = model.init(jax.random.key(0), images)
  analysis = jax.jit(model.apply).lower(variables, images).compile()
  flops = analysis.cost_analysis()['flops']
  macs = total_macs(model, variables, images)
  assert macs == pytest.approx(flops / 2, rel=0.02)


def test_unknown_names_and_depths():
  with pytest.raises(ValueError, match='lenet300, lenet5; got'):
    models.create_model('lenet', 10)
  with pytest.raises(ValueError, match='6 n \\+ 2'):
    resnet.ResNet(18).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
