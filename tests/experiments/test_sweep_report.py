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
"""What the table, the plot and the page of a sweep show."""

import json

import numpy as np
import pytest

from experiments import sweep_report
from experiments.reporting import reading


def points_of(*seeds):
  """A dense network, one of a density and one of a penalty of 1."""
  return [
    {
      'field': field,
      'value': value,
      'seed': seed,
      'accuracy': accuracy + 0.01 * seed,
      'density': density,
      'live': 10,
      'seconds': 1.0,
    }
    for seed in seeds
    for field, value, accuracy, density in (
      ('target_density', 1.0, 0.9, 1.0),
      ('target_density', 0.5, 0.8, 0.5),
      ('penalty', 1.0, 0.6, 0.1),
    )
  ]


def test_the_plot():
  rows = sweep_report.summarise(points_of(0, 1))
  figure = sweep_report.plot(rows, 'RigL', 'test')
  (axes,) = figure.axes
  texts = [text.get_text() for text in axes.get_legend().get_texts()]
  assert sorted(texts) == ['RigL', 'dense']
  # A penalty of 1 is a point of the curve; the dense network is the line.
  curve = axes.containers[0].lines[0]
  np.testing.assert_allclose(curve.get_xdata(orig=False), [50, 10])
  (line,) = [x for x in axes.lines if x.get_label() == 'dense']
  np.testing.assert_allclose(line.get_ydata(), 90.5)


@pytest.mark.parametrize('seeds', [(0,), (0, 1)])
def test_table_and_page_agree_on_what_is_dense(tmp_path, seeds):
  config = {'method': 'soft_threshold', 'model': 'm', 'dataset': 'd'}
  report = {'split': 'test', 'config': config, 'points': points_of(*seeds)}
  (tmp_path / 'results.json').write_text(json.dumps(report))
  front = reading.read(str(tmp_path))
  assert isinstance(front, reading.Front)
  methods = [row['method'] for row in front.rows]
  assert methods == ['dense', 'STR', 'STR, by price']
  lines = front.table.splitlines()[2:]
  assert [x.split('|')[1].strip() for x in lines] == [
    'dense',
    'density 50 %',
    'λ = 1',
  ]
  # Of one seed there is no deviation.
  expected = '90.00 %' if len(seeds) == 1 else '90.50 ± 0.71 %'
  assert lines[0].split('|')[4].strip() == expected
