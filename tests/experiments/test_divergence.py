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
"""A run whose loss is not finite says so, and leaves files that can be read."""

import json
import math

import ml_collections
import pytest

from experiments import activity_pruning
from experiments import compaction
from experiments import compare
from experiments import consensus
from experiments import input_pipeline
from experiments import models
from experiments import nnrelief
from experiments import nnrelief_report
from experiments import recording
from experiments import report
from experiments import rewinding
from experiments import sweep
from experiments import train
from experiments.configs import digits_gated_vgg16_consensus
from experiments.configs import digits_mlp_scl
from experiments.configs import mnist_lenet300_nnrelief
from experiments.reporting import reading

_NAN = math.nan
_DIVERGED = train.Run(None, [{'step': 1, 'loss': _NAN}], 1, 0.0, [])


def strictly(text):
  """JSON as its standard has it, without NaN."""

  def refuse(name):
    raise ValueError(name)

  return json.loads(text, parse_constant=refuse)


def test_a_run_that_diverges(tmp_path):
  config = digits_mlp_scl.get_config()
  config.update(
    optimizer='sgd',
    learning_rate=1e30,
    batch_size=256,
    epochs=1,
    points_per_epoch=4,
    dense_reference=False,
  )
  result = train.train_and_evaluate(config, str(tmp_path))
  (finding,) = result['findings']
  points = [
    strictly(line)
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
  ]
  lost = [point['step'] for point in points if point['loss'] is None]
  assert f'not finite from step {lost[0]} on: lower the learning' in finding
  assert lost[-1] == points[-1]['step'] == 4
  assert strictly((tmp_path / 'result.json').read_text()) == result

  run = reading.read(str(tmp_path))
  assert isinstance(run, reading.Run)
  assert 'loss' not in run.history[-1]
  with open(report.write(str(tmp_path)), encoding='utf-8') as file:
    assert 'The loss is not finite' in file.read()


def test_a_sweep_of_which_a_point_diverges(tmp_path):
  config = digits_mlp_scl.get_config()
  config.update(
    optimizer='sgd',
    learning_rate=1e30,
    batch_size=256,
    epochs=1,
    densities=(0.1,),
    seeds=1,
    together=False,
  )
  text = sweep.main(config, str(tmp_path))
  last = text.splitlines()[-1]
  assert last.startswith(
    'Look into this: density 10 %, seed 0: The loss is not finite from step '
  )
  (point,) = json.loads((tmp_path / 'results.json').read_text())['points']
  assert last.endswith(point['findings'][0])
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert 'density 10 %, seed 0: The loss is not finite' in page


def test_a_comparison_of_which_a_run_diverges(tmp_path):
  config = digits_mlp_scl.get_config()
  config.update(optimizer='sgd', batch_size=256, epochs=1)
  with config.unlocked():
    config.compare = ml_collections.ConfigDict(
      {
        'methods': ('random',),
        'densities': (0.1,),
        'seeds': 1,
        'tuning_densities': (0.1,),
        'tuning_examples': 500,
        'search_trials': 1,
        'trials': {'random': ({'learning_rate': 1e30},)},
      }
    )
  last = compare.main(config, str(tmp_path)).splitlines()[-1]
  found = 'random, ERK at 10 %, seed 0: The loss is not finite from step '
  assert last.startswith(f'Look into this: {found}')
  assert found in (tmp_path / 'report.html').read_text(encoding='utf-8')


@pytest.mark.parametrize(
  ('module', 'experiment', 'point', 'name'),
  [
    (
      compaction,
      'experiment',
      {'way': 'mixed', 'value': 0.1},
      'mixed, density 10 %',
    ),
    (
      consensus,
      'consensus',
      {'method': 'dense', 'share': 1.0},
      'dense, share 1',
    ),
    (
      nnrelief,
      'experiment',
      {'alpha': 0.9, 'conv_alpha': 0.8, 'iteration': 2},
      'α = 0.9, α of convolutions = 0.8, iteration 2',
    ),
  ],
)
def test_commands_say_what_was_found(
  monkeypatch, module, experiment, point, name
):
  found = ['It is lost.', 'Raise freeze_step.']
  points = [{**point, 'seed': 3, 'findings': found}]
  points.append({**point, 'seed': 4})  # older than the field
  monkeypatch.setattr(module, experiment, lambda *_: {'points': points})
  for place in (module, nnrelief_report):
    monkeypatch.setattr(place, 'table', lambda _: 'Table\n', raising=False)
  monkeypatch.setattr(nnrelief_report, 'summarise', lambda _: None)
  text = module.main(None, 'workdir')
  assert text == (
    'Table\n'
    f'Look into this: {name}, seed 3: It is lost.\n'
    f'Look into this: {name}, seed 3: Raise freeze_step.\n'
    'In a config freeze_step is config.freeze_at, a share of the run.\n'
  )


@pytest.mark.parametrize('way', ['connections', 'features'])
def test_what_has_diverged_is_not_compacted(way, monkeypatch):
  config = digits_mlp_scl.get_config()
  dataset = input_pipeline.from_config(config)
  monkeypatch.setattr(train, 'fit', lambda *_, **__: _DIVERGED)
  with pytest.raises(ValueError, match=f'{way}, density 10 %, seed 2: The los'):
    compaction.measure(config, dataset, way, 0.1, 2)


@pytest.mark.parametrize('method', ['dense', 'consensus'])
def test_nor_are_its_gates_decided(method, monkeypatch):
  config = digits_gated_vgg16_consensus.get_config()
  dataset = input_pipeline.from_config(config)
  monkeypatch.setattr(train, 'fit', lambda *_, **__: _DIVERGED)
  with pytest.raises(ValueError, match=f'{method}, share 0.5, seed 2: The los'):
    consensus.train_point(config, dataset, method, 0.5, 2)


def test_a_chain_ends_with_the_stage_that_diverges(monkeypatch):
  config = mnist_lenet300_nnrelief.get_config()
  dataset = input_pipeline.load_dataset('digits')
  model = models.create_model(config.model, dataset.num_classes)
  monkeypatch.setattr(activity_pruning, 'prune', None)
  dense = rewinding.Stage(0, None, _DIVERGED)
  flow = rewinding.trace(config, model, dataset)
  assert list(
    rewinding.chain(config, model, dataset, dense, flow, 0.9, 0.9)
  ) == [dense]


@pytest.mark.parametrize(
  ('losses', 'step'),
  [
    ([1.0, 0.5], None),
    ([1.0, _NAN], 20),
    ([1.0, math.inf, _NAN], 20),
    ([_NAN, _NAN], 10),
    ([_NAN, 1.0], None),  # it came back
    ([_NAN, 1.0, _NAN], 30),
    ([], None),
  ],
)
def test_from_which_step_on(losses, step):
  history = [
    {'step': 10 * i, 'loss': loss} for i, loss in enumerate(losses, start=1)
  ]
  found = train.divergence(history)
  assert len(found) == (step is not None)
  assert all(f'from step {step} on' in message for message in found)


def test_a_line_of_metrics():
  line = recording.line({'step': 3, 'loss': _NAN, 'density': 0.5})
  assert line == '{"step": 3, "loss": null, "density": 0.5}\n'
