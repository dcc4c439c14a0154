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
"""Runs together against the same runs alone; what is put together, and when."""

import json

import jax
import numpy as np
import pytest

from experiments import input_pipeline
from experiments import models
from experiments import sweep
from experiments import together
from experiments import train
from experiments.configs import digits_lenet5_scl
from experiments.configs import digits_mlp_scl
import scl_jax


def config_of(module=digits_mlp_scl, **fields):
  config = module.get_config()
  config.epochs = 2
  config.update(fields)
  return config


def load(config):
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  return model, dataset._replace(validation=dataset.validation.take(slice(0)))


def live(run):
  masks = scl_jax.get_masks(run.state.opt_state)
  return sum(int(n) for n in jax.tree.leaves(scl_jax.live_connections(masks)))


def assert_alike(found, expected, test):
  """Up to rounding, which has grown over the 38 steps."""
  assert found.freeze_step == expected.freeze_step
  assert found.findings == expected.findings
  for one, other in zip(found.history, expected.history, strict=True):
    assert one == pytest.approx(other, rel=1e-3)
  state, other = found.state, expected.state
  assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, other)
  accuracies = (test(run.state.params) for run in (found, expected))
  assert next(accuracies) == pytest.approx(next(accuracies), abs=0.01)


def test_densities_and_seeds_together_and_alone():
  configs = [
    config_of(target_density=0.2, seed=0),
    config_of(target_density=0.05, seed=3),
  ]
  model, dataset = load(configs[0])
  test = lambda params: train.accuracy(model, params, dataset.test)
  runs = together.fit(configs, model, dataset)
  # Exact at the cut, each at its own density.
  assert [live(run) for run in runs] == [10_040, 2_510]
  # The step was made of the first, so it is the second that shows.
  alone = train.fit(configs[1], model, dataset)
  assert_alike(runs[1], alone, test)
  assert live(alone) == live(runs[1])


def test_dense_networks_together_and_alone():
  # With Adam's default of 1e-8 the rounding of tiny gradients moves weights.
  damped = {'eps': 1e-3}
  configs = [
    config_of(method='dense', seed=seed, optimizer_arguments=damped)
    for seed in (1, 2)
  ]
  model, dataset = load(configs[0])
  test = lambda params: train.accuracy(model, params, dataset.test)
  runs = together.fit(configs, model, dataset)
  alone = train.fit(configs[1], model, dataset)
  assert_alike(runs[1], alone, test)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    runs[1].state.params,
    alone.state.params,
  )


def test_sweep_trains_what_is_left_together(tmp_path, monkeypatch):
  # A target density in the config does not stand in the way of penalties.
  config = config_of(penalties=(0.02,), seeds=1, target_density=0.5)
  model, _ = load(config)
  dataset = input_pipeline.from_config(config)
  keys = [('penalty', p, seed) for p in (0.02, 0.1) for seed in (0, 1)]
  alone = sweep.train_point(config, model, dataset, *keys[3])
  first = {**alone, 'value': 0.02, 'seed': 0}
  monkeypatch.setattr(sweep, 'train_point', lambda *args: first)
  assert sweep.sweep(config, str(tmp_path))['points'] == [first]

  groups = []
  fit = together.fit

  def spy(configs, *args):
    groups.append([(c.penalty, c.seed, c.target_density) for c in configs])
    return fit(configs, *args)

  monkeypatch.setattr(together, 'fit', spy)
  config.penalties, config.seeds, config.together = (0.02, 0.1), 2, True
  points = sweep.sweep(config, str(tmp_path))['points']
  assert groups == [[(0.02, 1, None), (0.1, 0, None), (0.1, 1, None)]]
  assert [(p['field'], p['value'], p['seed']) for p in points] == keys
  assert [p.get('together') for p in points] == [None, 3, 3, 3]
  numbers = ('accuracy', 'density', 'density_before_freeze', 'live')
  assert [points[3][name] for name in numbers] == pytest.approx(
    [alone[name] for name in numbers], rel=0.01
  )
  assert points == json.loads((tmp_path / 'results.json').read_text())['points']
  sweep.sweep(config, str(tmp_path))
  assert len(groups) == 1  # all were there


def test_bad_values_are_told_before_any_training(tmp_path, monkeypatch):
  monkeypatch.setattr(sweep, 'train_point', None)
  config = config_of(penalties=(0.2, -1), seeds=1)
  with pytest.raises(ValueError, match=r'penalty must be .*got -1\.0'):
    sweep.sweep(config, str(tmp_path))


@pytest.mark.parametrize(
  ('backend', 'fields', 'module', 'is_together'),
  [
    ('gpu', {}, digits_mlp_scl, True),
    ('tpu', {'target_density': 0.1}, digits_mlp_scl, True),
    ('gpu', {'method': 'dense'}, digits_mlp_scl, True),
    ('gpu', {'together': False}, digits_mlp_scl, False),
    ('gpu', {'method': 'rigl'}, digits_mlp_scl, False),
    ('gpu', {'flip': True}, digits_mlp_scl, False),
    ('gpu', {'stream': True}, digits_mlp_scl, False),
    ('gpu', {}, digits_lenet5_scl, False),
    ('gpu', {'together': True}, digits_lenet5_scl, True),
    ('cpu', {}, digits_mlp_scl, False),
    ('cpu', {'together': True}, digits_mlp_scl, True),
  ],
)
def test_choice(monkeypatch, backend, fields, module, is_together):
  model, dataset = load(config_of(module))
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  size = together.group_size(config_of(module, **fields), model, dataset)
  assert (size > 1) == is_together


def test_groups_fit_the_memory(monkeypatch):
  """Five float32 arrays of the weights with SCL and Adam, and not much more."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  model, dataset = load(config_of())
  weights = 4 * 50_610
  sizes = []
  for arrays in (4, 7, 70):
    monkeypatch.setattr(together, 'STATE_BYTES', arrays * weights)
    sizes.append(together.group_size(config_of(), model, dataset))
  assert sizes == [1, 1, 13]
  monkeypatch.setattr(together, 'STATE_BYTES', 0)
  assert together.group_size(config_of(together=True), model, dataset) == 2


@pytest.mark.parametrize('size', [1, 2, 3, 4, 100])
def test_groups_hold_each_run_once(monkeypatch, size):
  monkeypatch.setattr(together, 'group_size', lambda *args: size)
  configs = {
    **{f'density {i}': config_of(target_density=0.1) for i in range(7)},
    **{f'penalty {i}': config_of(penalty=0.1) for i in range(3)},
    **{f'dense {i}': config_of(method='dense') for i in range(2)},
  }
  groups = together.groups(configs, None, None)
  assert [key for keys in groups for key in keys] == list(configs)
  assert max(map(len, groups)) <= size
  assert all(len({key.split()[0] for key in keys}) == 1 for keys in groups)
  of_densities = [len(keys) for keys in groups if 'density 0' <= keys[0] < 'e']
  assert max(of_densities) - min(of_densities) <= 1


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'method': 'rigl'}, "config.method='rigl'"),
    ({'crop_padding': 2}, 'config.crop_padding'),
    ({'recalibration_batches': 3}, 'config.recalibration_batches=3'),
  ],
)
def test_what_cannot_be_together(fields, message):
  config = config_of(together=True, **fields)
  with pytest.raises(ValueError, match=f'together=True.*with {message}'):
    together.group_size(config, None, None)
  with pytest.raises(ValueError, match=f'Runs with {message}'):
    together.fit([config, config], None, None)


def test_one_step_must_serve_all():
  configs = [
    config_of(learning_rate=0.1, scl={'ramp': 0.5}),
    config_of(learning_rate=0.2, target_density=0.1),
  ]
  names = r"\['learning_rate', 'scl', 'target_density'\]"
  with pytest.raises(ValueError, match=f'these differ in {names}'):
    together.fit(configs, None, None)
