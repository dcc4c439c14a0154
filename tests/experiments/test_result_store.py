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
"""Reports: what a new one holds, and that committed ones still load."""

import json
import os
import pathlib
import shlex
import sys

from absl import flags
from ml_collections import config_flags
import numpy as np
import pytest

from experiments import compaction
from experiments import compare
from experiments import consensus
from experiments import input_pipeline
from experiments import nnrelief
from experiments import result_store
from experiments import sweep
from experiments import train
from experiments.configs import default

# Imported together: no two of them may define a flag on import.
_JOBS = {
  'experiments.sweep': sweep.sweep,
  'experiments.nnrelief': nnrelief.experiment,
  'experiments.compare': compare.compare,
  'experiments.compaction': compaction.experiment,
  'experiments.consensus': consensus.consensus,
}
_ROOT = pathlib.Path(__file__).parents[2]
_COMMITTED = [
  (path, shlex.split(command))
  for path in sorted(_ROOT.glob('experiments/results/*/results.json'))
  for command in json.loads(path.read_text()).get('commands', ())
]


def config_of():
  """The config that the command line makes."""
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file('config', flag_values=values)
  flags.DEFINE_string('workdir', None, 'Not used.', flag_values=values)
  values(sys.argv)
  return holder.value


def test_there_are_committed_results():
  assert len(_COMMITTED) >= 3


# ml_collections loads config files in an old way.
@pytest.mark.filterwarnings('ignore:.*load_module:DeprecationWarning')
@pytest.mark.parametrize(
  ('path', 'command'),
  _COMMITTED,
  ids=[path.parent.name for path, _ in _COMMITTED],
)
def test_committed_results_are_resumed(path, command, tmp_path, monkeypatch):
  """The commands in them repeat no run, and write the same table."""
  report = json.loads(path.read_text())
  monkeypatch.chdir(_ROOT)
  monkeypatch.setattr(sys, 'argv', command[2:])
  config = config_of()
  (tmp_path / 'results.json').write_text(path.read_text())
  # Whatever the data set: it is not trained on. Of a size for all models.
  digits = input_pipeline.load_dataset(
    'digits', validation_size=10, image_size=28
  )
  monkeypatch.setattr(input_pipeline, 'from_config', lambda _: digits)
  monkeypatch.setattr(train, 'fit', None)
  again = _JOBS[command[2]](config, str(tmp_path))
  assert again == report
  table = (tmp_path / 'table.md').read_text()
  assert table == (path.parent / 'table.md').read_text()


def load(workdir, config, **fields):
  return result_store.load(
    str(workdir),
    config,
    **{
      'module': 'experiments.none',
      'ignore': ('seed', 'scl.ramp', 'missing.field'),
      'empty': {'points': []},
      **fields,
    },
  )


def test_new_report(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['none.py', '--config.a=(1, 2)'])
  config = default.get_config()
  config.scl.ramp, config.scl.box = 0.5, 0.3
  empty = {'points': []}
  report = load(tmp_path, config, empty=empty)
  command = "python -m experiments.none '--config.a=(1, 2)'"
  assert report['commands'] == [command]
  assert report['config']['scl']['box'] == 0.3
  assert 'ramp' not in report['config']['scl']
  assert 'seed' not in report['config']
  assert (config.seed, config.scl.ramp) == (0, 0.5)
  report['points'].append({})
  assert empty == {'points': []}
  assert not list(tmp_path.iterdir())


def test_a_folder_is_made_or_refused_before_any_training(tmp_path, monkeypatch):
  load(tmp_path / 'new' / 'folder', default.get_config())
  assert (tmp_path / 'new' / 'folder').is_dir()
  (tmp_path / 'file').touch()
  with pytest.raises(NotADirectoryError):
    load(tmp_path / 'file' / 'run', default.get_config())
  # Also where there are results, of which a next one would be lost.
  result_store.save(str(tmp_path), load(tmp_path, default.get_config()))
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
  for folder in (tmp_path, tmp_path / 'new' / 'folder'):
    with pytest.raises(
      PermissionError, match=r'--workdir: .* cannot be written'
    ):
      load(folder, default.get_config())


def test_what_may_differ_and_what_not(tmp_path):
  config = default.get_config()
  report = load(tmp_path, config)
  report['points'].append({'accuracy': 0.5})
  result_store.save(str(tmp_path), report)
  config.seed, config.scl.ramp = 3, 0.9
  assert load(tmp_path, config) == report
  config.epochs, config.scl.box = 7, 0.1
  with pytest.raises(ValueError, match=r"differ: \['epochs', 'scl'\]"):
    load(tmp_path, config)


def test_what_changes_no_run(tmp_path):
  config = default.get_config()
  report = load(tmp_path, config)
  result_store.save(str(tmp_path), report)
  config.update(
    dense_reference=False, points_per_checkpoint=5, keep_checkpoints=1,
    stream_workers=2, tensorboard=True, mask_history=True, together=False,
    densities=(0.1,), penalties=(0.1,), methods=('scl',), seeds=7, seed=1,
  )  # fmt: skip
  assert load(tmp_path, config) == report


def test_the_results_of_another_experiment(tmp_path):
  config = default.get_config()
  result_store.save(str(tmp_path), load(tmp_path, config))
  with pytest.raises(
    ValueError,
    match=r'holds results of experiments\.none, not of .*sweep: give',
  ):
    load(tmp_path, config, module='experiments.sweep')
  ablation = _ROOT / 'experiments/results/mnist_lenet300_ablation/results.json'
  for text, writer in (
    (ablation.read_text(), r'experiments\.ablation'),
    ('{}', 'something else'),
  ):
    (tmp_path / 'results.json').write_text(text)
    with pytest.raises(ValueError, match=f'holds results of {writer}, not of'):
      load(tmp_path, config)


def test_every_command_is_kept_once(tmp_path, monkeypatch):
  for argv in (['x', '--a'], ['x', '--b'], ['x', '--a']):
    monkeypatch.setattr(sys, 'argv', argv)
    report = load(tmp_path, default.get_config())
    result_store.save(str(tmp_path), report)
  assert report['commands'] == [
    'python -m experiments.none --a',
    'python -m experiments.none --b',
  ]


def test_a_field_that_is_newer_than_the_report(tmp_path):
  config = default.get_config()
  report = load(tmp_path, config)
  del report['config']['label_smoothing']
  result_store.save(str(tmp_path), report)
  assert load(tmp_path, config) == report
  config.label_smoothing = 0.1
  with pytest.raises(ValueError, match=r"differ: \['label_smoothing'\]"):
    load(tmp_path, config)


def test_mean_and_std():
  mean, std = result_store.mean_and_std([90.0, 92.0, 97.0])
  assert (mean, std) == (pytest.approx(93), pytest.approx(13**0.5))
  mean, std = result_store.mean_and_std([4.0])
  assert mean == 4
  assert np.isnan(std)


@pytest.mark.parametrize(
  ('values', 'expected'),
  [([90.0, 92.0, 97.0], '93.00 ± 3.61'), ([4.0], '4.00')],
)
def test_mean_and_std_as_text(values, expected):
  mean, std = result_store.mean_and_std(values)
  assert result_store.plus_minus(mean, std) == expected
