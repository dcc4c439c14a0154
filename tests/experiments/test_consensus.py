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
"""Runs with gates, what they leave, and the comparison of methods."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import compact
from experiments import consensus
from experiments import finished_run
from experiments import input_pipeline
from experiments import models
from experiments import train
from experiments.configs import digits_gated_resnet20_consensus
from experiments.models import gated_vgg
from experiments.models import lenet
from experiments.models import vgg
import scl_jax

FEATURES = (6, 8)


@pytest.fixture(scope='module', autouse=True)
def small_models():
  """A VGG of two convolutions, with gates and without."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(vgg._CONVOLUTIONS, 2, (1, 1))
    small = functools.partial(gated_vgg.GatedVGG, depth=2, features=FEATURES)
    patch.setattr(models, 'MODELS', {'small': small})
    yield


@pytest.fixture
def few(monkeypatch):
  """A data set of few images."""
  whole = input_pipeline.load_dataset('digits')
  few = whole._replace(
    train=whole.train.take(slice(640)), test=whole.test.take(slice(64))
  )
  monkeypatch.setattr(input_pipeline, 'from_config', lambda _: few)
  return few


def short_config(**fields):
  config = digits_gated_resnet20_consensus.get_config()
  config.model, config.epochs = 'small', 4
  config.consensus.update(costs='connections', ramp=0.4)
  config.densities, config.seeds = (0.5,), 1
  config.update(fields)
  return config


def sizes(first, second):
  """(connections, parameters, MACs) of so many channels, on 8x8 and 4x4."""
  layers = (9 * first, 9 * first * second, 10 * second)
  params = sum(layers) + 2 * (first + second) + 10
  return sum(layers), params, 64 * layers[0] + 16 * layers[1] + layers[2]


def test_a_run(tmp_path, few):
  """Its report, its files, and what other commands make of it."""
  result = train.train_and_evaluate(short_config(), str(tmp_path))
  points = [
    json.loads(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  for point in points:
    assert 0 <= point['activity'] <= 1
    assert 0 <= point['polarization'] <= 0.25
  assert points[0]['activity'] > points[-1]['activity']
  assert result == json.loads((tmp_path / 'result.json').read_text())
  dense = sizes(*FEATURES)
  left = sizes(
    *(n - len(result['closed'][f'layer_{i}']) for i, n in enumerate(FEATURES))
  )
  assert left < dense
  assert result['density'] == pytest.approx(left[0] / dense[0])
  assert (result['params'], result['macs']) == left[1:]
  assert (result['dense_params'], result['dense_macs']) == dense[1:]
  for name in ('dynamic_test_accuracy', 'dense_test_accuracy', 'open_macs'):
    assert 0 < result[name] <= 1
  assert 0 <= result['disagreement'] <= 0.25
  if result['test_disagreement'] == 0:
    assert result['test_accuracy'] == result['dynamic_test_accuracy']

  run = finished_run.load(str(tmp_path), num_images=64)
  assert not any(name.startswith('Gate') for name in run.params)
  assert scl_jax.density(run.masks) == pytest.approx(result['density'])
  predicted = jax.jit(run.network)(run.params, run.images).argmax(-1)
  found = (np.asarray(predicted) == few.test.labels).mean()
  assert found == pytest.approx(result['test_accuracy'])


def test_every_method_once(tmp_path, few, monkeypatch):
  del few
  monkeypatch.setattr(
    compact, 'latencies', lambda *_, **__: {'static_speedup': 1.5}
  )
  report = consensus.consensus(short_config(), str(tmp_path))
  points = {point['method']: point for point in report['points']}
  assert list(points) == list(consensus.METHODS)
  dense = sizes(*FEATURES)
  assert (points['dense']['params'], points['dense']['macs']) == dense[1:]
  half = sizes(3, 4)
  assert points['gradual_magnitude']['density'] == half[0] / dense[0]
  assert points['gradual_magnitude']['macs'] == half[2]
  # Half of all filters, in whatever layer.
  assert points['scl']['macs'] in [sizes(n, 7 - n)[2] for n in range(1, 7)]
  assert 0 <= points['consensus']['disagreement'] <= 0.25
  table = (tmp_path / 'table.md').read_text()
  assert table.count('\n') == 6
  assert table == consensus.table(report)

  monkeypatch.setattr(consensus, 'train_point', None)  # nothing is repeated
  again = consensus.consensus(short_config(), str(tmp_path))
  assert again == json.loads((tmp_path / 'results.json').read_text())


def test_bad_configs(tmp_path, few, monkeypatch):
  del few
  monkeypatch.setattr(consensus, 'train_point', None)  # nothing is trained
  monkeypatch.setitem(models.MODELS, 'lenet300', lenet.LeNet300)
  with pytest.raises(ValueError, match=r"with gates, .*'lenet300'"):
    consensus.consensus(
      short_config(model='lenet300', methods=('dense',)), str(tmp_path)
    )
  with pytest.raises(ValueError, match=r"among dense, .*; got \('rigl',"):
    consensus.consensus(short_config(methods=('rigl',)), str(tmp_path))
  with pytest.raises(ValueError, match='nothing to train'):
    consensus.consensus(short_config(seeds=0), str(tmp_path))
  with pytest.raises(ValueError, match=r'config.densities .*got 0.5 twice'):
    consensus.consensus(short_config(densities=(0.5, 0.5)), str(tmp_path))
  for share in (2.0, 'half'):
    with pytest.raises(ValueError, match=r'^config\.densities must'):
      consensus.consensus(short_config(densities=(0.5, share)), str(tmp_path))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'scl.estimator': 'foo'}, "'foo'"),
    ({'target_macs': 0.5}, 'target_macs=0.5'),
    ({'consensus.polarization': -1.0}, 'polarization'),
    ({'consensus.costs': 'foo'}, "'foo'"),
    ({'optimizer': 'foo'}, "'foo'"),
  ],
)
def test_the_last_run_is_refused_before_the_first(
  tmp_path, few, monkeypatch, fields, message
):
  del few
  monkeypatch.setattr(consensus, 'train_point', None)  # nothing is trained
  config = short_config()
  config.update_from_flattened_dict(fields)
  with pytest.raises(ValueError, match=message):
    consensus.consensus(config, str(tmp_path))
  assert not (tmp_path / 'results.json').exists()


def test_arguments_of_magnitudes_are_the_users():
  """Over the defaults of the comparison."""
  config = short_config(method='gradual_magnitude', target_density=0.5)
  config.gradual_magnitude = {'begin_step': -1}
  model = models.create_model('small', 10).without_gates()
  with pytest.raises(ValueError, match='begin_step'):
    consensus._rule(config, model, 100)
  config.gradual_magnitude = {'allocation': 'evenly'}
  with pytest.raises(ValueError, match='evenly'):
    consensus._rule(config, model, 100)


def test_the_share_reached_is_in_the_table():
  """Also of points that are older than the field, whose shares are of MACs."""
  point = {
    'method': 'consensus', 'share': 0.75, 'test_accuracy': 0.5,
    'dynamic_test_accuracy': 0.5, 'disagreement': 0.0, 'open_macs': 0.8,
    'macs': 1, 'dense_macs': 2, 'params': 1, 'dense_params': 2,
    'static_speedup': 1.0, 'seconds': 1.0,
  }  # fmt: skip
  for points, expected in (
    ([point], '0.8'), ([point, {**point, 'open_share': 0.7}], '0.75'),
  ):  # fmt: skip
    lines = consensus.table({'points': points}).splitlines()
    heads, values = ([c.strip() for c in lines[i].split('|')] for i in (0, 2))
    assert values[heads.index('share reached')] == expected
