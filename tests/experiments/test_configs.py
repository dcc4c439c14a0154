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
"""Every config is complete: its model, rule, optimizer and command exist."""

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import optax
import pytest

from experiments import configs
from experiments import contenders
from experiments import gating
from experiments import models
from experiments import optimizers
from experiments import rules
from experiments.configs import default
import scl_jax

_NAMES = sorted(m.name for m in pkgutil.iter_modules(configs.__path__))
_MANY_RUNS = [n for n in _NAMES if n.endswith(('_compare', '_nnrelief'))]
_RUNNABLE = [n for n in _NAMES if n not in ('default', 'cifar10', *_MANY_RUNS)]


@pytest.mark.parametrize('name', _RUNNABLE)
def test_config(name):
  module = importlib.import_module(f'experiments.configs.{name}')
  config = module.get_config()
  assert f'--config=experiments/configs/{name}.py' in module.__doc__
  assert f'--workdir=workdirs/{name}' in module.__doc__
  assert {*config} <= {*default.get_config()}
  assert name.startswith(config.dataset.split('2012')[0])
  assert name.endswith(config.method)

  model = models.create_model(config.model, 10, config.dtype)
  size = config.image_size or (28 if 'lenet' in config.model else 32)
  channels = len(config.pixel_mean) or 1
  images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  tx = optimizers.make_optimizer(config, 1000)
  rule = rules.rule_of(config, 1000)
  assert (rule is None) == (config.method in ('dense', 'consensus'))
  if rule is not None:
    tx = scl_jax.sparsify(tx, rule)
  shape = (size, size, channels)
  price = gating.make_regularizer(config, model, shape, 1000)
  assert (price is None) == (config.method != 'consensus')
  # The rule's patterns of feature axes fit the model's paths.
  state = jax.eval_shape(tx.init, params)
  assert jax.tree.leaves(state)


@pytest.mark.parametrize('name', _MANY_RUNS)
def test_config_of_many_runs(name):
  module = importlib.import_module(f'experiments.configs.{name}')
  config = module.get_config()
  assert f'-m experiments.{name.split("_")[-1]} ' in module.__doc__
  assert f'--config=experiments/configs/{name}.py' in module.__doc__
  own = {'alphas', 'conv_alphas', 'compare', 'nnrelief'}
  assert {*config} <= {*default.get_config(), *own}
  assert config.get('nnrelief', {'iterations': 1})['iterations'] >= 1
  for method, trials in config.get('compare', {'trials': {}})['trials'].items():
    for trial in trials:
      one = contenders.configure(config, method, 0.05, 0, trial)
      assert rules.rule_of(one, 1000) is not None
      optimizers.make_optimizer(one, 1000)


def test_rules():
  config = default.get_config()
  config.method = 'prune'
  with pytest.raises(ValueError, match=r"'dense', 'scl', .*; got 'prune'"):
    rules.rule_of(config, 100)
  config.method = 'scl'
  with config.unlocked():
    config.scl.boxx = 0.2
  with pytest.raises(ValueError, match=r'config.scl does not fit.*boxx'):
    rules.rule_of(config, 100)


def test_arguments_of_scl_are_its_defaults():
  parameters = inspect.signature(scl_jax.scl).parameters
  for name, value in default.get_config().scl.items():
    if name == 'mask_dtype':
      value = jnp.dtype(value)
    assert parameters[name].default == value, name


def test_arguments_of_the_consensus_are_those_of_price():
  parameters = inspect.signature(gating.price).parameters
  known = {
    name: parameter.default
    for name, parameter in parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
  }
  assert known.pop('target') is inspect.Parameter.empty
  assert {**default.get_config().consensus} == {'target': None, **known}


def test_one_target_at_most():
  config = default.get_config()
  config.target_density, config.target_macs = 0.1, 0.2
  with pytest.raises(ValueError, match=r'at most; got .*0\.1 and .*0\.2'):
    rules.rule_of(config, 100)
  config.method, config.target_density = 'rigl', None
  with pytest.raises(ValueError, match=r'target_macs=0\.2 is for SCL alone'):
    rules.rule_of(config, 100)
  config.method, config.target_macs = 'scl', None
  config.layer_densities = ('.*', 0.2)
  with pytest.raises(ValueError, match='must hold pairs of a pattern'):
    rules.rule_of(config, 100)


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({'target_macs': 0.5}, None),
    ({'layer_densities': (('Dense_0/.*', 0.1), ('.*', 0.5))}, 0.1),
  ],
  ids=str,
)
def test_targets_of_layers_and_macs(fields, expected):
  config = default.get_config()
  config.update(fields)
  model = models.create_model('lenet300', 10)
  params = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))['params']
  known = rules.arguments_of(config, model, (4, 4, 1))
  tx = scl_jax.sparsify(optax.sgd(0.1), rules.rule_of(config, 4, **known))
  state = tx.init(params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  for _ in range(3):
    _, state = jax.jit(tx.update)(zeros, state, params)
  masks = scl_jax.get_masks(state)
  if expected is None:  # each connection of a perceptron is one MAC
    assert float(scl_jax.density(masks)) == pytest.approx(0.5, abs=1e-4)
  else:
    first = masks['Dense_0']['kernel']
    assert float(first.mean()) == pytest.approx(expected, abs=1e-3)
    assert float(masks['Dense_1']['kernel'].mean()) == pytest.approx(0.5)


@pytest.mark.parametrize('share', [0.0, -0.5, 1.01, float('nan')])
def test_masks_are_fixed_within_the_run(share):
  config = default.get_config()
  config.freeze_at = share
  with pytest.raises(ValueError, match=r'freeze_at must be .* \(0, 1\]; got'):
    rules.rule_of(config, 100)
