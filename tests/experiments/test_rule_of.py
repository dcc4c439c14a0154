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
"""Which targets go with which methods, and what is refused."""

import jax.numpy as jnp
import pytest

from experiments import contenders
from experiments import input_pipeline
from experiments import models
from experiments import rewinding
from experiments import rules
from experiments import sweep
from experiments import train
from experiments.configs import digits_mlp_scl

METHODS = (*rules.RULES, *rules.WITHOUT_MASKS)
TAKE_DENSITIES = (
  'scl',
  'gradual_magnitude',
  'rigl',
  'sparse_evolutionary_training',
  'snip',
  'random_pruning',
)


def config_of(**fields):
  config = digits_mlp_scl.get_config()
  config.update({'epochs': 1, 'dense_reference': False, **fields})
  return config


@pytest.mark.parametrize('method', METHODS)
def test_a_density_is_taken_or_refused(method):
  config = config_of(method=method, target_density=0.3)
  if method in TAKE_DENSITIES:
    assert rules.rule_of(config, 100) is not None
    return
  with pytest.raises(
    ValueError,
    match=rf"config.target_density=0.3 does not go with .*method='{method}', w",
  ):
    rules.rule_of(config, 100)


@pytest.mark.parametrize('method', [m for m in METHODS if m != 'scl'])
@pytest.mark.parametrize(
  'target', [{'target_macs': 0.3}, {'layer_densities': (('.*', 0.3),)}]
)
def test_targets_of_scl_alone(method, target):
  with pytest.raises(ValueError, match=rf'config.{next(iter(target))}='):
    rules.rule_of(config_of(method=method, **target), 100)


def test_blocks_are_written_as_text():
  config = config_of(method='scl', target_density=0.3)
  config.scl.granularity = '(4, 2)'
  state = rules.rule_of(config, 100).init({'w': jnp.ones((8, 6))})
  assert state.mask_params['w'].shape == (2, 3)
  config.scl.granularity = '(4,'
  with pytest.raises(ValueError, match=r"granularity must be .*got '\(4,'"):
    rules.rule_of(config, 100)


def test_the_dense_network_has_density_one():
  config = config_of(method='dense', target_density=1.0)
  assert rules.rule_of(config, 100) is None
  with pytest.raises(ValueError, match='does not go with'):
    rules.rule_of(config_of(method='soft_threshold', target_density=1.0), 100)


@pytest.mark.parametrize(
  'target',
  [
    {'target_density': 0.3},
    {'target_macs': 0.3},
    {'layer_densities': (('.*', 0.3),)},
  ],
)
def test_the_dense_network_beside_a_sparse_one(target):
  config = rules.dense_config(config_of(**target))
  assert config.method == 'dense'
  assert rules.rule_of(config, 100) is None


def test_nnrelief_has_a_command_of_its_own():
  with pytest.raises(ValueError, match='run python -m experiments'):
    rules.rule_of(config_of(method='nnrelief'), 100)


def test_where_chains_start():
  """From the dense network, whatever the density that is asked for."""
  config = config_of(target_density=0.3)
  dataset = input_pipeline.from_config(config)
  model = models.create_model('lenet300', 10)
  run = rewinding.train_dense(config, model, dataset).run
  assert all(p['density'] == 1 for p in run.history)


@pytest.mark.parametrize('name', contenders.CONTENDERS)
def test_contenders_with_a_strength_are_asked_for_no_density(name):
  config = config_of()
  with config.unlocked():
    config.nnrelief = {'cut_share': 0.1}
  config = contenders.configure(config, name, 0.25, 0, {})
  strength = contenders.get(name).strength
  assert config.target_density == (0.25 if strength is None else None)
  if contenders.get(name).kind == 'rule':
    assert rules.rule_of(config, 100) is not None


@pytest.mark.parametrize(
  'method', ['dense', 'dynamic_sparse_training', 'soft_threshold']
)
def test_sweeps_over_densities_of_methods_without(
  tmp_path, monkeypatch, method
):
  config = config_of(method=method, densities=(1.0, 0.2), seeds=1)
  monkeypatch.setattr(train, 'fit', None)
  with pytest.raises(ValueError, match=r'target_density=0.2 does not go with'):
    sweep.sweep(config, str(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('method', ['dense', 'consensus'])
def test_sweeps_over_penalties_of_methods_without(
  tmp_path, monkeypatch, method
):
  config = config_of(method=method, penalties=(0.1, 0.2), seeds=1)
  monkeypatch.setattr(train, 'fit', None)
  with pytest.raises(ValueError, match=f"method='{method}' has no penalty"):
    sweep.sweep(config, str(tmp_path))


def test_labels():
  assert contenders.label_of('scl') == 'SCL'
  assert contenders.label_of('gradual_magnitude') == 'gradual magnitude'
  assert contenders.label_of('soft_threshold') == 'STR'
  assert contenders.label_of('consensus') == 'consensus'
