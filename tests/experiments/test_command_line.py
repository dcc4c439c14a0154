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

import subprocess
import sys

from absl import app
from absl import flags
from ml_collections import config_flags
import pytest

from experiments import artifacts
from experiments import command_line
from experiments import config_checks
from experiments.configs import default

CONFIG = 'experiments/configs/digits_mlp_scl.py'

# It is of ml_collections, which loads configs.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')


def run(*arguments, module='main'):
  return subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', *arguments],
    capture_output=True,
    text=True,
    check=False,
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


def test_a_command_without_arguments():
  process = run('junk', module='estimators')
  assert process.returncode == 1
  assert "Unknown arguments: ['junk']" in process.stderr + process.stdout


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


@pytest.fixture
def parse(monkeypatch):
  """What a command does with its arguments, in this process."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values)
  flags.DEFINE_string('workdir', None, 'Where.', flag_values=values)
  for module in (app, flags):
    monkeypatch.setattr(module, 'FLAGS', values)

  def parse(words):
    argv = ['main.py', *words.split(' ')]
    monkeypatch.setattr(sys, 'argv', argv)  # config_flags reads it, too
    command_line._parse(argv)
    return values

  return parse


@pytest.fixture
def refusal(parse):
  """The one line that is said of bad arguments."""

  def refusal(words):
    with pytest.raises(SystemExit) as error:
      parse(words)
    assert '\n' not in error.value.code  # and no number, but what is printed
    return error.value.code

  return refusal


def test_a_config_that_is_not_there(refusal):
  message = refusal('--workdir=run --config=nowhere.py')
  assert message.startswith('--config=nowhere.py cannot be read: give the path')


def test_a_file_that_is_no_config(refusal, tmp_path):
  path = tmp_path / 'config.py'
  path.write_text('epochs = 3\n')
  message = refusal(f'--workdir=run --config={path}')
  assert message == f'--config={path} has no function get_config().'


def test_a_config_file_with_a_mistyped_field():
  config = default.get_config()
  config.rigl = {'update_every': 50}  # of a method
  command_line.check_fields(config)
  config.epoch = 3
  with pytest.raises(ValueError, match=r"'epoch', which nothing.*'epochs'\?"):
    command_line.check_fields(config)


def test_a_workdir_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').touch()
  process = run(
    f'--workdir={tmp_path}/file/run',
    f'--config={CONFIG}',
    '--config.densities=(0.1,)',
    '--config.seeds=1',
    module='sweep',
  )
  assert process.returncode == 1
  assert process.stderr.startswith('NotADirectoryError: ')
  assert process.stderr.count('\n') == 1


@pytest.mark.parametrize('name', ['', 'file'])
def test_a_workdir_that_is_a_file_or_nothing(tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  with (
    pytest.raises(NotADirectoryError, match=f"must be a folder.* got '{name}'"),
    artifacts.alone(name),
  ):
    pass


def test_ctrl_c_is_said_in_a_line(monkeypatch, capsys):
  def main():
    raise KeyboardInterrupt

  start_now = lambda start, flags_parser: start(['main.py'])
  monkeypatch.setattr(command_line.app, 'run', start_now)
  monkeypatch.setattr(command_line.jax.config, 'config_with_absl', lambda: None)
  monkeypatch.setattr(command_line, 'keep_compiled_programs', lambda: None)
  codes = []
  monkeypatch.setattr(command_line.os, '_exit', codes.append)
  command_line.run(main, after_interrupt='Go on with --resume.')
  assert codes == [130]  # as shells say it of SIGINT
  assert capsys.readouterr().err == (
    '\nStopped by Ctrl-C. Go on with --resume.\n'
  )


def test_a_workdir_in_the_home_folder(parse, monkeypatch):
  monkeypatch.setenv('HOME', '/somebody')
  found = parse(
    f'--workdir=~/run --config={CONFIG} --config.warm_start=~/dense'
  )
  assert found.workdir == '/somebody/run'
  assert found.config.warm_start == '/somebody/dense'


def test_a_workdir_that_is_no_folder(refusal):
  message = refusal(f'--workdir=gs://bucket/run --config={CONFIG}')
  assert message.startswith(
    'ValueError: --workdir=gs://bucket/run must be a folder of a file system'
  )


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


def test_a_penalty_and_a_target_are_refused(refusal):
  words = f'--workdir=run --config={CONFIG} --config.penalty=1'
  message = refusal(f'{words} --config.target_density=0.1')
  assert message.startswith('ValueError: Give either config.penalty or')
