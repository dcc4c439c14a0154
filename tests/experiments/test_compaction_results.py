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
"""What compaction makes of trained networks: each once, and the table."""

import json

import pytest

from experiments import compaction
from experiments.configs import digits_mlp_scl


def short_config(**fields):
  config = digits_mlp_scl.get_config()
  config.epochs = 2
  config.update({'densities': (0.2,), 'seeds': 1, **fields})
  return config


def test_each_network_once(tmp_path, monkeypatch):
  ways = {name: compaction.WAYS[name] for name in ('features', 'mixed')}
  monkeypatch.setattr(compaction, 'WAYS', ways)
  # Fewer images than a batch has.
  config = short_config(validation_size=8)
  report = compaction.experiment(config, str(tmp_path))
  assert report['split'] == 'validation'
  points = {p['way']: p for p in report['points']}
  assert points.keys() == ways.keys()
  for point in points.values():
    assert point['macs_before'] == 64 * 300 + 300 * 100 + 100 * 10
    assert point['params_after'] < point['params_before']
    assert point['difference32'] < 1e-5
    inputs = {int(shape.split('x')[0]) for shape in point['shapes']}
    assert max(inputs) <= 300
  # Whole features leave less than as many scattered connections do.
  assert points['features']['macs_after'] < points['mixed']['macs_after']
  monkeypatch.setattr(compaction, 'measure', None)
  assert compaction.experiment(config, str(tmp_path)) == report
  assert json.loads((tmp_path / 'results.json').read_text()) == report
  assert (tmp_path / 'table.md').read_text() == compaction.table(report)


def test_table():
  point = {
    'way': 'features', 'value': 0.05, 'params_before': 200, 'macs_before': 400,
    'latency': {s: {'compact_speedup': 2.0} for s in ('1', '32', '256')},
  }  # fmt: skip
  report = {
    'points': [
      {
        **point, 'accuracy': 0.9, 'params_after': 20, 'macs_after': 100,
        'shapes': ['9x4', '4x10'],
      },
      {
        **point, 'accuracy': 0.92, 'params_after': 40, 'macs_after': 50,
        'shapes': ['8x6', '6x10'],
      },
    ]
  }  # fmt: skip
  assert compaction.table(report).splitlines()[2] == (
    '| 5 % | features | 91.00 ± 1.41 % | 5-10 | 15.0 % | ×5.3 | '
    '×2.00 ± 0.00 | ×2.00 ± 0.00 | ×2.00 ± 0.00 |'
  )


def test_a_density_that_is_there_twice(tmp_path):
  with pytest.raises(ValueError, match=r'config\.densities .*got 0.1 twice'):
    compaction.experiment(short_config(densities=(0.1, 0.1)), str(tmp_path))


@pytest.mark.parametrize('density', [5.0, None, (0.1,)])
def test_a_density_that_cannot_be(tmp_path, monkeypatch, density):
  monkeypatch.setattr(compaction, 'measure', None)  # nothing is trained
  with pytest.raises(ValueError, match=r'^config\.densities must'):
    compaction.experiment(short_config(densities=(0.1, density)), str(tmp_path))


def test_a_method_without_features(tmp_path, monkeypatch):
  monkeypatch.setattr(compaction, 'measure', None)  # nothing is trained
  with pytest.raises(ValueError, match=r'scl_jax\.rigl: .*feature_price'):
    compaction.experiment(
      short_config(densities=(0.1,), method='rigl'), str(tmp_path)
    )


@pytest.mark.parametrize(
  ('field', 'value'), [('granularity', 'feature'), ('feature_price', 0.75)]
)
def test_what_the_ways_vary(tmp_path, field, value):
  config = short_config(densities=(0.1,))
  config.scl[field] = value
  with pytest.raises(
    ValueError, match=rf'^config\.scl\.{field} is what the ways'
  ):
    compaction.experiment(config, str(tmp_path))


def test_nothing_to_do(tmp_path):
  with pytest.raises(ValueError, match='nothing to train'):
    compaction.experiment(short_config(densities=()), str(tmp_path))
