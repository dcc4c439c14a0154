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
"""NNrelief with rewinding: the experiment and its configs."""

import json

import pytest

from experiments import nnrelief
from experiments import nnrelief_report
from experiments import rewinding
from experiments import train
from experiments.configs import mnist_lenet5_nnrelief
from experiments.configs import mnist_lenet300_nnrelief


def short_config():
  config = mnist_lenet300_nnrelief.get_config()
  config.dataset = 'digits'
  config.validation_size = 200
  config.epochs, config.seeds, config.points_per_epoch = 3, 1, 1
  config.alphas = (0.9, 0.6)
  config.nnrelief.iterations = 2
  config.nnrelief.examples = 100
  return config


class TestExperiment:
  def test_every_chain_once_and_alike(self, tmp_path, monkeypatch):
    report = nnrelief.experiment(short_config(), str(tmp_path))
    points = report['points']
    assert [p['iteration'] for p in points] == [0, 1, 2] * 2
    assert [p['epochs'] for p in points] == [3, 6, 9] * 2
    for start in range(0, 6, 3):
      density = [p['density'] for p in points[start : start + 3]]
      assert density[0] == 1 > density[1] > density[2] > 0
    # The dense network of the seed is one and the same.
    assert points[0]['accuracy'] == points[3]['accuracy'] > 0.8
    assert points[5]['density'] < points[2]['density']
    for p in points:
      assert p['live'] <= p['live_parameters'] <= p['live'] + 410
    text = (tmp_path / 'table.md').read_text()
    assert text.count('| dense |') == 1
    assert text.count('\n') == 2 + 1 + 4
    assert (tmp_path / 'front.png').read_bytes().startswith(b'\x89PNG')

    # Interrupted after one chain, it runs the other again, alike.
    kept = {**report, 'points': points[:3]}
    (tmp_path / 'results.json').write_text(json.dumps(kept))
    chains = []
    chain = rewinding.chain

    def spy(*args):
      chains.append(args)
      return chain(*args)

    monkeypatch.setattr(rewinding, 'chain', spy)
    again = nnrelief.experiment(short_config(), str(tmp_path))
    assert len(chains) == 1
    strip = lambda points: [{**p, 'seconds': 0} for p in points]
    assert strip(again['points']) == strip(points)

  @pytest.mark.parametrize(
    ('fields', 'message'),
    [
      ({'alphas': ()}, 'config.alphas must hold'),
      ({'conv_alphas': (0.9,)}, 'as many'),
      ({'nnrelief': {'iterations': 0}}, 'iterations must be .* >= 1, got 0'),
      ({'seeds': 0}, 'config.seeds must be a whole number >= 1, got 0'),
      ({'alphas': (0.9, 1.5)}, r'config.alphas must be in \(0, 1\], got 1.5'),
      ({'alphas': (0.9,), 'conv_alphas': (0.0,)}, 'config.conv_alphas must be'),
      ({'alphas': (0.9, 0.9)}, 'config.alphas .* everything once'),
      ({'alphas': ('most',)}, r"config.alphas .*got \('most',\)"),
      ({'alphas': (0.9,), 'conv_alphas': (None,)}, 'config.conv_alphas must'),
      ({'nnrelief': {'cut': 'paperr'}}, "config.nnrelief.cut .*'paper'"),
      ({'nnrelief': {'norm': 'q'}}, "config.nnrelief.norm .*got 'q'"),
      ({'stream': True}, 'config.stream=False'),
      ({'target_density': 0.05}, 'config.target_density=0.05 does not go'),
      ({'target_macs': 0.05}, 'config.target_macs=0.05 does not go'),
      ({'layer_densities': (('.*', 0.1),)}, 'config.layer_densities='),
      ({'model': 'gated_resnet8', 'image_size': 16}, 'Gate_0/mlp'),
    ],
  )
  def test_bad_configs(self, tmp_path, monkeypatch, fields, message):
    """All of them before anything is trained."""
    monkeypatch.setattr(train, 'fit', lambda *_, **__: pytest.fail('trained'))
    config = short_config()
    config.update(fields)
    with pytest.raises(ValueError, match=message):
      nnrelief.experiment(config, str(tmp_path))

  @pytest.mark.parametrize(
    'name', ['alphas', 'conv_alphas', 'nnrelief', 'nnrelief.cut']
  )
  def test_a_config_of_something_else(self, tmp_path, name):
    config = short_config()
    *parents, field = name.split('.')
    with config.unlocked():
      del (config[parents[0]] if parents else config)[field]
    with pytest.raises(
      ValueError, match=rf'^config\.{name} is .*_nnrelief\.py'
    ):
      nnrelief.experiment(config, str(tmp_path))

  def test_rows_of_one_pair_of_shares_stay_together(self):
    names = ('accuracy', 'density', 'live', 'live_parameters', 'epochs')
    points = [
      {'alpha': 0.9, 'conv_alpha': c, 'iteration': i, 'seed': 0, 'seconds': 1}
      | dict.fromkeys(names, 1.0)
      for c in (0.5, 0.8)
      for i in (2, 1, 0)
    ]
    rows = nnrelief_report.summarise(points)
    found = [(row['conv_alpha'], row['iteration']) for row in rows]
    assert found == [(None, 0), (0.8, 1), (0.8, 2), (0.5, 1), (0.5, 2)]

  def test_refuses_the_results_of_another_config(self, tmp_path):
    (tmp_path / 'results.json').write_text(
      json.dumps(
        {
          'commands': ['python -m experiments.nnrelief'],
          'config': {'epochs': 99},
          'points': [],
        }
      )
    )
    with pytest.raises(ValueError, match=r"differ: \[.*'epochs'"):
      nnrelief.experiment(short_config(), str(tmp_path))

  @pytest.mark.parametrize(
    ('module', 'shares'),
    [
      (mnist_lenet300_nnrelief, ('lenet300', (0.95,), ())),
      (mnist_lenet5_nnrelief, ('lenet5', (0.95,), (0.9,))),
    ],
  )
  def test_configs(self, module, shares):
    config = module.get_config()
    assert (config.model, config.alphas, config.conv_alphas) == shares
