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
"""Optimizers and schedules against their formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import optimizers
from experiments.configs import default


def config_of(**fields):
  config = default.get_config()
  config.update({'epochs': 10, 'learning_rate': 0.1, **fields})
  return config


def test_warmup_and_cosine():
  schedule = optimizers.make_schedule(config_of(warmup_epochs=2.0), 100)
  np.testing.assert_allclose(
    [schedule(step) for step in (0, 5, 10, 20)], [0, 0.025, 0.05, 0.1]
  )
  np.testing.assert_allclose(
    [float(schedule(step)) for step in (40, 60, 100)],
    [0.05 * (1 + np.cos(np.pi * share)) for share in (0.25, 0.5, 1)],
    atol=1e-8,
  )


@pytest.mark.parametrize('warmup', [0.0, 1.0])
def test_steps(warmup):
  config = config_of(schedule='step', warmup_epochs=warmup)
  schedule = optimizers.make_schedule(config, 100)
  # At a boundary the factor does not act yet in optax, one step later it does.
  np.testing.assert_allclose(
    [schedule(step) for step in (20, 49, 51, 74, 76)],
    [0.1, 0.1, 0.01, 0.01, 0.001],
    rtol=1e-5,
  )


def test_steps_that_round_to_the_same():
  config = config_of(schedule='step', schedule_boundaries=(0.5, 0.52))
  schedule = optimizers.make_schedule(config, 20)
  assert schedule(19) == pytest.approx(0.001)


def test_nesterov_with_decay_and_clipping():
  config = config_of(
    optimizer='sgd',
    schedule='constant',
    weight_decay=0.01,
    clip_norm=1.0,
  )
  config.optimizer_arguments.update({'momentum': 0.9, 'nesterov': True})
  tx = optimizers.make_optimizer(config, 10)
  weights, bias = np.full((2, 2), 2.0), np.full(2, 3.0)
  params = {'kernel': jnp.asarray(weights), 'bias': jnp.asarray(bias)}
  state = tx.init(params)
  traces = [np.zeros((2, 2)), np.zeros(2)]
  for _ in range(3):
    grads = {'kernel': jnp.full((2, 2), 4.0), 'bias': jnp.full(2, 3.0)}
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    norm = np.sqrt(4 * 16 + 2 * 9)
    clipped = [
      np.full((2, 2), 4.0) / norm + 0.01 * weights,
      np.full(2, 3) / norm,
    ]
    for index, gradient in enumerate(clipped):
      traces[index] = 0.9 * traces[index] + gradient
    weights = weights - 0.1 * (clipped[0] + 0.9 * traces[0])
    bias = bias - 0.1 * (clipped[1] + 0.9 * traces[1])
  np.testing.assert_allclose(params['kernel'], weights, rtol=1e-5)
  np.testing.assert_allclose(params['bias'], bias, rtol=1e-5)


def test_a_warmup_that_rounds_to_the_whole_run_leaves_a_step():
  schedule = optimizers.make_schedule(config_of(warmup_epochs=9.99), 20)
  np.testing.assert_allclose([schedule(0), schedule(19)], [0, 0.1])


@pytest.mark.parametrize(
  'name', ['adam', 'adamw', 'lion', 'rmsprop', 'lamb', 'contrib.muon']
)
def test_any_of_optax(name):
  tx = optimizers.make_optimizer(config_of(optimizer=name), 10)
  params = {'w': jnp.ones((2, 2))}
  updates, _ = tx.update(params, tx.init(params), params)
  assert (updates['w'] < 0).all()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'optimizer': 'adamm'}, "optimizer of optax.*'adamm'"),
    ({'optimizer': 'chain'}, "optimizer of optax.*'chain'"),
    ({'optimizer': 'tree_utils'}, 'optimizer of optax'),
    ({'optimizer': 'contrib.chain'}, 'optimizer of optax'),
    ({'optimizer': 'Schedule'}, 'optimizer of optax'),
    ({'optimizer': 'contrib.schedule_free_sgd'}, 'with other weights'),
    ({'optimizer': 'lbfgs'}, "'lbfgs' takes no step from .*value_fn"),
    ({'optimizer': 'rprop'}, "'rprop' takes no step from gradients"),
    ({'optimizer_arguments': {'beta': 1}}, 'do not fit optax.adam.*beta'),
    ({'optimizer_arguments': {'b1': 'x'}}, "arguments={'b1': 'x'}: mend these"),
    ({'schedule': 'linear'}, "'cosine', 'constant' or 'step'; got 'linear'"),
    ({'warmup_epochs': 10.0}, r'warmup_epochs must be in \[0, 10\)'),
  ],
)
def test_bad_configs(fields, message):
  with pytest.raises(ValueError, match=message):
    optimizers.make_optimizer(config_of(**fields), 100)
