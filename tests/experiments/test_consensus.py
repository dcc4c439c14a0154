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

import json

import jax
import numpy as np
import pytest

from experiments import compact
from experiments import consensus
from experiments import finished_run
from experiments import gating
from experiments import input_pipeline
from experiments import models
from experiments import train
from experiments.configs import digits_gated_resnet20_consensus

pytestmark = pytest.mark.usefixtures('quick_compiles')


def short_config(**fields):
  config = digits_gated_resnet20_consensus.get_config()
  config.model, config.epochs = 'gated_resnet8', 3
  config.consensus.update(target=0.5, costs='gates', ramp=0.4)
  config.densities, config.seeds = (0.5,), 1
  config.update(fields)
  return config


@pytest.fixture
def few(monkeypatch):
  """A data set of few images."""
  whole = input_pipeline.load_dataset('digits', image_size=16)
  few = whole._replace(
    train=whole.train.take(slice(640)), test=whole.test.take(slice(64))
  )
  monkeypatch.setattr(input_pipeline, 'from_config', lambda _: few)
  return few


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
  assert {
    'test_accuracy', 'dynamic_test_accuracy', 'dense_test_accuracy',
    'disagreement', 'test_disagreement', 'open_macs', 'density',
  } <= set(result)  # fmt: skip
  closed = [int(name[-1]) for name, gone in result['closed'].items() if gone]
  assert 1 <= len(closed) <= 2
  inputs, outputs = (16, 16, 32), (16, 32, 64)
  gone = sum(
    9 * (inputs[i] + outputs[i]) * outputs[i] + 4 * outputs[i] for i in closed
  )
  assert result['dense_params'] - result['params'] == gone
  macs = gating.gate_costs(
    models.create_model('gated_resnet8', 10), (16, 16, 1)
  )
  gone = sum(macs[f'block_{i}'] for i in closed)
  assert result['dense_macs'] - result['macs'] == gone
  assert result['open_macs'] == pytest.approx(1 - gone / sum(macs.values()))
  if result['test_disagreement'] == 0:
    assert result['test_accuracy'] == result['dynamic_test_accuracy']

  run = finished_run.load(str(tmp_path), num_images=64)
  predicted = jax.jit(run.network)(run.params, run.images).argmax(-1)
  found = (np.asarray(predicted) == few.test.labels).mean()
  assert found == pytest.approx(result['test_accuracy'])
  assert not any(name.startswith('Gate') for name in run.params)


def test_every_method_once(tmp_path, few, monkeypatch):
  monkeypatch.setattr(
    compact, 'latencies', lambda *_, **__: {'static_speedup': 1.5}
  )
  report = consensus.consensus(short_config(), str(tmp_path))
  points = {point['method']: point for point in report['points']}
  assert list(points) == list(consensus.METHODS)
  dense = points['dense']
  assert dense['macs'] == dense['dense_macs']
  assert dense['density'] == 1
  assert points['scl']['macs'] < dense['macs']
  # Half of the channels within each branch, on maps of 8, 4 and 2 pixels.
  half = 64 * (16 + 16) * 8 + 16 * (16 + 32) * 16 + 4 * (32 + 64) * 32
  saved = dense['macs'] - points['gradual_magnitude']['macs']
  assert saved == 9 * half
  assert 0 <= points['consensus']['disagreement'] <= 0.25
  table = (tmp_path / 'table.md').read_text()
  assert table.count('\n') == 6
  assert table == consensus.table(report)

  monkeypatch.setattr(consensus, 'train_point', None)  # nothing is repeated
  again = consensus.consensus(short_config(), str(tmp_path))
  assert again == json.loads((tmp_path / 'results.json').read_text())


def test_bad_configs(tmp_path):
  with pytest.raises(ValueError, match=r"among dense, .*; got \('rigl',"):
    consensus.consensus(short_config(methods=('rigl',)), str(tmp_path))
  with pytest.raises(ValueError, match='nothing to train'):
    consensus.consensus(short_config(seeds=0), str(tmp_path))
