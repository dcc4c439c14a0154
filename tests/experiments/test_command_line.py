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
"""What the commands say to those who mistype."""

import os
import subprocess
import sys

import pytest

from experiments import command_line
from experiments import config_checks
from experiments.configs import default

CONFIG = 'experiments/configs/digits_mlp_scl.py'


def run(*arguments, module='main', home=None):
  return subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', *arguments],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, **({'HOME': str(home)} if home else {})},
  )


@pytest.mark.parametrize(
  ('flag', 'expected'),
  [
    ('--config.epoch=3', "'epoch' in config; did you mean 'epochs'?"),
    (
      '--config.targt_density=0.1',
      "'targt_density' in config; did you mean 'target_density'?",
    ),
    ('--config.mesh.qqq=3', 'in config.mesh; there are: data, fsdp, tensor.'),
    ('--config.scl.bix=3', "in config.scl; did you mean 'box'?"),
    ('--config.consensus.rump=3', "in config.consensus; did you mean 'ramp'?"),
    ('--config.epochs.x=3', "'x' in config.epochs; it takes none"),
  ],
)
def test_unknown_fields(flag, expected):
  argv = ['main.py', f'--config={CONFIG}', '--config.seed=1', flag]
  message = command_line._unknown_field(argv, CONFIG)
  assert message is not None
  assert message.startswith(flag.partition('=')[0] + ': there is no field ')
  assert expected in message


def test_known_fields():
  argv = ['main.py', '--config.epochs=3', '--config.consensus.activity=0.6']
  assert command_line._unknown_field(argv, CONFIG) is None


def test_a_mistyped_field_is_said_in_a_line(tmp_path):
  words = f'--workdir={tmp_path} --config {CONFIG} --config.epoch 3'
  process = run(*words.split(' '))
  assert process.returncode == 1
  assert process.stderr == (
    "--config.epoch: there is no field 'epoch' in config; did you mean "
    "'epochs'?\n"
  )
  assert not list(tmp_path.iterdir())


def test_a_config_that_is_not_there(tmp_path):
  process = run(f'--workdir={tmp_path}', '--config=nowhere.py', module='sweep')
  assert process.returncode == 1
  assert '--config=nowhere.py cannot be read: give the path' in process.stderr
  assert process.stderr.count('\n') == 1


def test_a_file_that_is_no_config(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text('epochs = 3\n')
  process = run(f'--workdir={tmp_path}', f'--config={path}', module='compare')
  assert process.returncode == 1
  assert process.stderr == f'--config={path} has no function get_config().\n'


def test_a_workdir_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').touch()
  process = run(
    f'--workdir={tmp_path}/file/run',
    f'--config={CONFIG}',
    '--config.densities=(0.1,)',
    '--config.epochs=1',
    '--config.seeds=1',
    module='sweep',
  )
  assert process.returncode == 1
  assert process.stderr.splitlines()[-1].startswith('NotADirectoryError: ')
  assert 'Traceback' not in process.stderr


def test_a_workdir_in_the_home_folder(tmp_path):
  process = run('--workdir=~/run', module='compact', home=tmp_path)
  assert process.returncode == 1
  assert f'{tmp_path}/run' in process.stderr


@pytest.mark.parametrize('module', ['main', 'sweep', 'compact'])
def test_a_workdir_that_is_no_folder(module):
  flags = '--workdir=gs://bucket/run'
  if module != 'compact':
    flags += f' --config={CONFIG}'
  process = run(*flags.split(' '), module=module)
  assert process.returncode == 1
  assert process.stderr.startswith(
    'ValueError: --workdir=gs://bucket/run must be a folder of a file system'
  )
  assert process.stderr.count('\n') == 1


@pytest.mark.parametrize(
  ('given', 'left'),
  [
    ({}, {'target_density': 0.1}),
    ({'epochs'}, {'target_density': 0.1}),
    ({'penalty'}, {}),
    ({'target_density'}, {'target_density': 0.1}),
    ({'target_macs'}, {'target_macs': 0.2}),
  ],
)
def test_a_penalty_or_target_that_is_given_replaces_the_files(given, left):
  config = default.get_config()
  config.target_density = 0.1
  if 'target_macs' in given:
    config.target_macs = 0.2
  config_checks.prefer_given(config, given)
  targets = {name: config[name] for name in config_checks.TARGETS}
  assert {k: v for k, v in targets.items() if v is not None} == left


def test_a_penalty_and_a_target_are_refused_in_a_line(tmp_path):
  words = f'--workdir={tmp_path} --config={CONFIG} --config.penalty=1'
  process = run(*words.split(' '), '--config.target_density=0.1')
  assert process.returncode == 1
  assert process.stderr.startswith('ValueError: Give either config.penalty or')
  assert process.stderr.count('\n') == 1
