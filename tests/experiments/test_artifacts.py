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
"""What a new run does to the files of the one before it, and when."""

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import artifacts
from experiments import export
from experiments import input_pipeline
from experiments import sweep
from experiments import train
from experiments.configs import digits_mlp_scl
from tests.experiments import made_workdir


def config_of(**fields):
  config = digits_mlp_scl.get_config()
  config.update({'epochs': 1, 'dense_reference': False, **fields})
  return config


def contents(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in pathlib.Path(folder).rglob('*')
    if path.is_file()
  }


@pytest.mark.parametrize(
  'fields',
  [
    {'penalty': -1.0},
    {'model': 'resnet'},
    {'optimizer': 'adamm'},
    {'schedule': 'linear'},
    {'batch_size': 5000},
    {'freeze_at': 0.0},
    {'recalibration_batches': 3},
    {'points_per_epoch': 0},
    {'keep_checkpoints': 0},
    {'mesh': {'data': 1000}},
    {'pixel_mean': (0.1, 0.2)},
    {'warm_start': 'nowhere'},
  ],
)
def test_a_bad_config_leaves_a_finished_run_alone(tmp_path, fields):
  made_workdir.write(tmp_path)
  (tmp_path / 'checkpoints' / '76').mkdir(parents=True)
  before = contents(tmp_path)
  with pytest.raises((ValueError, FileNotFoundError)):
    train.train_and_evaluate(config_of(**fields), str(tmp_path))
  assert contents(tmp_path) == before
  assert (tmp_path / 'checkpoints' / '76').is_dir()


def test_a_new_run_removes_what_is_of_the_old_one(tmp_path):
  made_workdir.write(tmp_path)
  written = {path.name for path in tmp_path.iterdir()}
  for name in ('compact', 'checkpoints', 'tensorboard', 'network.csr'):
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / 'file').touch()
  files = {*export.FORMATS.values(), 'bench.json', 'bench.md', 'report.html'}
  for name in files - {'network.csr'}:
    (tmp_path / name).touch()
  mine = {'notes.txt': 'keep me', 'network.md': 'me, too'}
  for name, text in mine.items():
    (tmp_path / name).write_text(text)

  artifacts.start(str(tmp_path), config_of(), resume=False)
  assert {p.name for p in tmp_path.iterdir()} == {'config.json', *mine}
  assert {'result.json', 'checkpoint', 'dense', 'training.png'} < written
  for name, text in mine.items():
    assert (tmp_path / name).read_text() == text


def test_a_run_that_goes_on_removes_nothing(tmp_path):
  made_workdir.write(tmp_path)
  (tmp_path / 'checkpoints' / '76').mkdir(parents=True)
  before = {path.name for path in tmp_path.iterdir()}
  artifacts.start(str(tmp_path), config_of(), resume=True)
  assert {path.name for path in tmp_path.iterdir()} == before


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
  (tmp_path / 'elsewhere').mkdir()
  (tmp_path / 'elsewhere' / 'file').touch()
  workdir = tmp_path / 'run'
  workdir.mkdir()
  os.symlink(tmp_path / 'elsewhere', workdir / 'dense')
  artifacts.start(str(workdir), config_of(), resume=False)
  assert not (workdir / 'dense').exists()
  assert (tmp_path / 'elsewhere' / 'file').exists()


def test_the_network_that_a_run_starts_from_is_not_replaced(tmp_path):
  made_workdir.write(tmp_path)
  config = config_of(warm_start=f'{tmp_path}/.')
  with pytest.raises(ValueError, match=r'warm_start=.* is the workdir'):
    train.train_and_evaluate(config, str(tmp_path))
  assert (tmp_path / 'checkpoint').is_dir()


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'seed': 2**70}, r'config.seed must be in \[0, 2\*\*32\), got 11805'),
    ({'seed': -1}, 'config.seed must be'),
    ({'batch_size': -1}, 'config.batch_size must be >= 1, got -1'),
    ({'points_per_epoch': 0}, 'points_per_epoch must be >= 1, got 0'),
    ({'points_per_checkpoint': 0}, 'points_per_checkpoint must be >= 1'),
    ({'keep_checkpoints': 0}, 'config.keep_checkpoints must be >= 1, got 0'),
    ({'image_size': 0}, 'config.image_size must be >= 1, or None, got 0'),
    ({'crop_padding': -1}, 'config.crop_padding must be >= 0, got -1'),
    ({'stream_workers': -1}, 'config.stream_workers must be >= 0, got -1'),
    ({'recalibration_batches': -1}, 'recalibration_batches must be >= 0'),
    ({'label_smoothing': 2.0}, r'label_smoothing must be in \[0, 1\), got 2.0'),
    ({'stream_crop_area': (2.0, 0.1)}, r'stream_crop_area .* got \(2.0, 0.1\)'),
    ({'stream_crop_area': (0.5,)}, 'stream_crop_area must be two shares'),
  ],
)
def test_numbers_out_of_range(fields, message):
  """They are refused before any data is read."""
  config = config_of(dataset='there is none', **fields)
  with pytest.raises(ValueError, match=message):
    input_pipeline.from_config(config)


_HOLD = """
import sys, time
from experiments import artifacts
with artifacts.alone(sys.argv[1]):
  print('alone', flush=True)
  time.sleep(600)
"""


def test_two_processes_do_not_write_into_one_workdir(tmp_path):
  workdir = str(tmp_path / 'run')
  with subprocess.Popen(
    [sys.executable, '-c', _HOLD, workdir], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == 'alone\n'
    with (
      pytest.raises(ValueError, match=f'Another process .* {workdir}: wait'),
      artifacts.alone(workdir),
    ):
      pass
    with artifacts.alone(str(tmp_path / 'other')):
      pass
    process.kill()
  with artifacts.alone(workdir):
    assert not os.listdir(workdir)


def test_commands_do_not_write_into_a_workdir_in_use(tmp_path):
  config = 'experiments/configs/digits_mlp_scl.py'
  with artifacts.alone(str(tmp_path)):
    for module in ('main', 'sweep'):
      process = subprocess.run(
        [
          *(sys.executable, '-m', f'experiments.{module}'),
          *(f'--config={config}', f'--workdir={tmp_path}'),
          '--config.epochs=1',
        ],
        capture_output=True,
        text=True,
        check=False,
      )
      assert process.returncode == 1
      assert 'ValueError: Another process is writing' in process.stderr
      assert 'Traceback' not in process.stderr
  assert not os.listdir(tmp_path)


def test_a_run_and_a_sweep_do_not_share_a_workdir(tmp_path):
  (tmp_path / 'sweep').mkdir()
  (tmp_path / 'sweep' / 'results.json').write_text('{}')
  with pytest.raises(ValueError, match='sweep holds the results of many runs'):
    train.train_and_evaluate(config_of(), str(tmp_path / 'sweep'))
  (tmp_path / 'run').mkdir()
  made_workdir.write(tmp_path / 'run')
  before = contents(tmp_path / 'run')
  with pytest.raises(ValueError, match=r'run holds a run of experiments\.main'):
    sweep.sweep(config_of(densities=(0.1,), seeds=1), str(tmp_path / 'run'))
  assert contents(tmp_path / 'run') == before
