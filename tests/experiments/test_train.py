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
"""The main job, from the command line and as a function."""

import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import checkpointing
from experiments import initial
from experiments import mask_history
from experiments import sweep
from experiments import sweep_report
from experiments import train
from experiments.configs import digits_lenet5_scl
from experiments.configs import digits_mlp_dense
from experiments.configs import digits_mlp_scl
from experiments.configs import mnist_lenet5_dense
from experiments.configs import mnist_lenet5_scl
from experiments.configs import mnist_lenet300_dense
from experiments.configs import mnist_lenet300_scl
import scl_jax


def short_config(module=digits_mlp_scl, **fields):
  config = module.get_config()
  config.epochs = 4
  config.dense_reference = False
  config.update(fields)
  return config


def read(workdir, name):
  with open(os.path.join(workdir, name), 'rb') as file:
    return file.read()


def test_command_line(tmp_path, monkeypatch):
  workdir = str(tmp_path / 'run')
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
  output = subprocess.run(
      [
          sys.executable, '-m', 'experiments.main',
          '--config=experiments/configs/digits_mlp_scl.py',
          f'--workdir={workdir}', '--config.epochs=20',
          '--config.penalty=0.1', '--config.seed=3',
      ],
      capture_output=True, text=True, check=True,
  ).stdout  # fmt: skip
  for column in (
    'connections',
    'live',
    'density',
    'dead features',
    'live MACs',
  ):
    assert column in output
  dense = float(re.search(r'dense +test accuracy ([\d.]+)%', output)[1])
  sparse = float(re.search(r'scl +test accuracy ([\d.]+)%', output)[1])
  assert dense > 95
  assert sparse > 90
  result = json.loads(read(workdir, 'result.json'))
  assert result['seed'] == 3
  assert result['test_accuracy'] == pytest.approx(sparse / 100, abs=1e-4)
  assert 0 < result['density'] < 0.5
  for name in ('training.png', 'layers.png', 'inputs.png'):
    assert read(workdir, name).startswith(b'\x89PNG')
  assert json.loads(read(workdir, 'config.json'))['penalty'] == 0.1
  assert read(workdir, 'table.md').decode().strip() in output
  assert b'How to repeat it' in read(workdir, 'report.html')
  assert any((tmp_path / 'cache' / 'scl_jax' / 'xla').iterdir())


def test_errors_are_one_line(tmp_path):
  process = subprocess.run(
      [
          sys.executable, '-m', 'experiments.main',
          '--config=experiments/configs/digits_mlp_scl.py',
          f'--workdir={tmp_path}', '--config.penalty=-1.0',
      ],
      capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert process.returncode == 1
  assert 'penalty must be finite and >= 0, got -1.0' in process.stderr
  assert 'Traceback' not in process.stderr
  assert 'INFO' not in process.stderr
  assert process.stderr.count('\n') == 1


@pytest.mark.parametrize('module', [digits_mlp_scl, digits_lenet5_scl])
def test_the_same_seed_gives_the_same_bytes(tmp_path, module):
  epochs = 4 if module is digits_mlp_scl else 1
  config = short_config(module, epochs=epochs)
  for name in ('a', 'b'):
    train.train_and_evaluate(config, str(tmp_path / name))
  for name in ('metrics.jsonl', 'table.md', 'config.json'):
    assert read(tmp_path / 'a', name) == read(tmp_path / 'b', name)
  config.seed = 1
  train.train_and_evaluate(config, str(tmp_path / 'c'))
  assert read(tmp_path / 'a', 'metrics.jsonl') != read(
    tmp_path / 'c', 'metrics.jsonl'
  )


def test_checkpoint_holds_the_network_of_the_result(tmp_path):
  config = short_config(target_density=0.1, mask_history=True)
  result = train.train_and_evaluate(config, str(tmp_path))
  assert result['density'] == pytest.approx(0.1, abs=1e-5)
  params = {
    f'Dense_{i}': {'kernel': jnp.zeros(shape), 'bias': jnp.zeros(shape[1])}
    for i, shape in enumerate([(64, 300), (300, 100), (100, 10)])
  }
  masks = jax.tree.map(lambda p: p if p.ndim > 1 else None, params)
  arrays = checkpointing.restore(
    str(tmp_path), {'params': params, 'masks': masks}
  )
  assert scl_jax.density(arrays['masks']) == pytest.approx(0.1, abs=1e-5)
  for i in range(3):
    kernel = arrays['params'][f'Dense_{i}']['kernel']
    mask = arrays['masks'][f'Dense_{i}']['kernel']
    np.testing.assert_array_equal(np.asarray(kernel)[np.asarray(mask) == 0], 0)

  kernels = jax.tree.leaves(arrays['masks'])
  bits = mask_history.read(str(tmp_path), [mask.shape for mask in kernels])
  assert list(bits) == [0, 19, 38, 57, 76]
  for first, last, mask in zip(bits[0], bits[76], kernels, strict=True):
    unpack = lambda packed, n=mask.size: np.unpackbits(packed, count=n)
    assert unpack(first).all()
    np.testing.assert_array_equal(unpack(last), mask.ravel())


def test_checkpoint_that_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint'):
    checkpointing.restore(str(tmp_path), {'params': jnp.zeros(1)})


def test_warm_start(tmp_path):
  """The dense network of another run, of the same model."""
  config = short_config(digits_mlp_dense)
  train.train_and_evaluate(config, str(tmp_path))
  dataset = train.input_pipeline.from_config(config)
  model = train.models.create_model('lenet300', 10)
  config = short_config(warm_start=str(tmp_path), epochs=1)
  params, _ = initial.initial_variables(config, model, dataset)
  stored = checkpointing.restore(str(tmp_path), {'params': params})['params']
  jax.tree.map(np.testing.assert_array_equal, params, stored)
  assert train.accuracy(model, params, dataset.validation) > 0.8

  model = train.models.create_model('lenet300', 9)
  with pytest.raises(ValueError, match=r"'params/Dense_2/bias'.*\(9,\).*\(10,"):
    initial.initial_variables(config, model, dataset)
  config.warm_start = str(tmp_path / 'nowhere')
  with pytest.raises(FileNotFoundError, match='no checkpoint'):
    initial.initial_variables(config, model, dataset)


def test_a_run_goes_on_without_its_warm_start(tmp_path):
  """Its checkpoint holds all that came from there."""
  first, second = tmp_path / 'first', tmp_path / 'second'
  train.train_and_evaluate(short_config(digits_mlp_dense), str(first))
  config = short_config(warm_start=str(first), epochs=1)
  result = train.train_and_evaluate(config, str(second))
  shutil.rmtree(first)
  again = train.train_and_evaluate(config, str(second), resume=True)
  assert again['test_accuracy'] == result['test_accuracy']
  with pytest.raises(FileNotFoundError, match='no checkpoint'):
    train.train_and_evaluate(config, str(tmp_path / 'new'), resume=True)


def test_no_buffer_has_two_names():
  """Or the state cannot be donated: cocob's weights are its first moments."""
  config = short_config(optimizer='contrib.cocob', learning_rate=1.0, epochs=1)
  dataset = train.input_pipeline.from_config(config)
  model = train.models.create_model('lenet300', 10)
  assert len(train.fit(config, model, dataset).history) == 1


def test_given_weights_and_rule(tmp_path):
  """As experiments with several rounds need; the given arrays stay alive."""
  config = short_config(epochs=1)
  dataset = train.input_pipeline.from_config(config)
  model = train.models.create_model('lenet300', 10)
  first, _ = initial.initial_variables(config, model, dataset)
  zeros = jax.tree.map(jnp.zeros_like, first)
  lengths = []

  def make_rule(num_steps):
    lengths.append(num_steps)
    return scl_jax.scl(penalty=0.0)

  run = train.fit(config, model, dataset, make_rule=make_rule, params=zeros)
  assert lengths == [19]
  # Between zeros no gradient reaches the kernels: only a bias has moved.
  np.testing.assert_array_equal(run.state.params['Dense_0']['kernel'], 0)
  assert np.any(run.state.params['Dense_2']['bias'])
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(zeros))


def test_event_files(tmp_path):
  """What TensorBoard shows is what the JSON lines say."""
  from tensorboardX.proto import event_pb2

  config = short_config(digits_mlp_dense, epochs=2, tensorboard=True)
  train.train_and_evaluate(config, str(tmp_path))
  (path,) = (tmp_path / 'tensorboard').iterdir()
  data, found = path.read_bytes(), {}
  while data:  # length, its checksum, the event, its checksum
    length = int.from_bytes(data[:8], 'little')
    event = event_pb2.Event.FromString(data[12 : 12 + length])
    for value in event.summary.value:
      found[event.step, value.tag] = value.simple_value
    data = data[16 + length :]
  for line in read(tmp_path, 'metrics.jsonl').splitlines():
    point = json.loads(line)
    step = point.pop('step')
    for name, number in point.items():
      assert found[step, name] == pytest.approx(number, rel=1e-6)
    assert found[step, 'images_per_second'] > 0


def test_methods_start_from_the_same_weights_and_batches():
  """With a penalty of 0 and no time to move, SCL is the dense network."""
  losses = []
  for module in (digits_mlp_scl, digits_mlp_dense):
    config = short_config(module, epochs=1, penalty=0.0)
    dataset = train.input_pipeline.load_dataset('digits', validation_size=200)
    model = train.models.create_model(config.model, 10)
    losses.append(train.fit(config, model, dataset).history[0]['loss'])
  # Only mask variables that cross 0 in the last batches make a difference.
  assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize(
  ('module', 'fields'),
  [
    (mnist_lenet300_scl, ('lenet300', 'scl')),
    (mnist_lenet300_dense, ('lenet300', 'dense')),
    (mnist_lenet5_scl, ('lenet5', 'scl')),
    (mnist_lenet5_dense, ('lenet5', 'dense')),
  ],
)
def test_mnist_configs(module, fields):
  config = module.get_config()
  assert (config.model, config.method) == fields
  assert config.dataset == 'mnist'


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'batch_size': 5000}, 'config.batch_size.*1237; got 5000'),
    ({'batch_size': 0}, 'config.batch_size'),
    ({'epochs': 0}, 'config.epochs must be >= 1, got 0'),
    ({'method': 'prune'}, "'dense', 'scl', .*; got 'prune'"),
    ({'model': 'resnet'}, "got 'resnet'"),
    ({'target_density': 2.0}, r'target_density must be in \(0, 1\]'),
  ],
)
def test_bad_configs(tmp_path, fields, message):
  with pytest.raises(ValueError, match=message):
    train.train_and_evaluate(short_config(**fields), str(tmp_path))


class TestSweep:
  def config(self):
    return short_config(densities=(1.0, 0.2), penalties=(0.02,), seeds=2)

  def test_trains_every_point_once(self, tmp_path, monkeypatch):
    report = sweep.sweep(self.config(), str(tmp_path))
    assert len(report['points']) == 6
    assert report['split'] == 'validation'
    asked = [p for p in report['points'] if p['value'] == 0.2]
    assert [p['live'] for p in asked] == [round(0.2 * 50_200)] * 2
    table = read(tmp_path, 'table.md').decode()
    assert table.count('\n') == 5
    assert '| dense | 100 % | 50,200 |' in table
    assert read(tmp_path, 'front.png').startswith(b'\x89PNG')

    # Interrupted after four points, it trains the other two again, alike.
    kept = {**report, 'points': report['points'][:4]}
    (tmp_path / 'results.json').write_text(json.dumps(kept))
    trained = []
    train_point = sweep.train_point

    def spy(*args):
      trained.append(args[-3:])
      return train_point(*args)

    monkeypatch.setattr(sweep, 'train_point', spy)
    again = sweep.sweep(self.config(), str(tmp_path))
    assert len(trained) == 2
    strip = lambda points: [{**p, 'seconds': 0} for p in points]
    assert strip(again['points']) == strip(report['points'])

  def test_refuses_the_results_of_another_config(self, tmp_path):
    (tmp_path / 'results.json').write_text(
      json.dumps(
        {
          'commands': ['python -m experiments.sweep'],
          'config': {'epochs': 3},
          'points': [],
        }
      )
    )
    with pytest.raises(ValueError, match=r"differ: \[.*'epochs'"):
      sweep.sweep(self.config(), str(tmp_path))

  def test_nothing_to_do(self, tmp_path):
    config = self.config()
    config.densities = config.penalties = ()
    with pytest.raises(ValueError, match='nothing to train'):
      sweep.sweep(config, str(tmp_path))

  @pytest.mark.parametrize('name', ['densities', 'penalties'])
  def test_nothing_is_there_twice(self, tmp_path, name):
    config = self.config()
    config[name] = (0.5, 0.2, 0.5)
    with pytest.raises(ValueError, match=f'config.{name} .*got 0.5 twice'):
      sweep.sweep(config, str(tmp_path))

  @pytest.mark.parametrize(
    ('name', 'value'),
    [('densities', 5.0), ('densities', (0.1,)), ('penalties', 'high')],
  )
  def test_a_value_that_cannot_be(self, tmp_path, name, value):
    config = self.config()
    config[name] = (0.5, value)
    with pytest.raises(ValueError, match=rf'^config\.{name} must'):
      sweep.sweep(config, str(tmp_path))

  def test_a_target_of_another_kind(self, tmp_path):
    config = self.config()
    config.target_macs = 0.1
    with pytest.raises(ValueError, match=r'config\.target_macs=0\.1 would go'):
      sweep.sweep(config, str(tmp_path))
    assert not [*tmp_path.iterdir()]

  def test_means_and_standard_deviations(self):
    point = {'field': 'penalty', 'value': 0.1, 'live': 3, 'seconds': 1.0}
    rows = sweep_report.summarise(
      [
        {**point, 'accuracy': a, 'density': d}
        for a, d in [(0.9, 0.1), (0.92, 0.2), (0.97, 0.3)]
      ]
    )
    assert len(rows) == 1
    np.testing.assert_allclose(rows[0]['accuracy'], 93.0)
    np.testing.assert_allclose(rows[0]['accuracy_std'], 13**0.5)
    np.testing.assert_allclose(rows[0]['density'], 20.0)
