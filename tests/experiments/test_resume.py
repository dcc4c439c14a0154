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
"""A run that is stopped and goes on is the run that was not stopped."""

import gc
import json
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from orbax import checkpoint as ocp
import pytest

from experiments import checkpointing
from experiments import finished_run
from experiments import hosts
from experiments import initial
from experiments import interruption
from experiments import report
from experiments import train
from experiments.configs import digits_mlp_scl
from tests.experiments import made_workdir

_EPOCHS = 20


def get_config(epochs=_EPOCHS):
  config = digits_mlp_scl.get_config()
  config.epochs = epochs
  config.points_per_checkpoint = 1
  config.dense_reference = False
  return config


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  train.train_and_evaluate(get_config(), str(workdir))
  return workdir


def start(workdir, *arguments):
  """The job, whose output goes to a file: a pipe that nobody reads fills."""
  with open(str(workdir) + '.log', 'w', encoding='utf-8') as log:
    return subprocess.Popen(
        [
            sys.executable, '-m', 'experiments.main',
            '--config=experiments/configs/digits_mlp_scl.py',
            f'--workdir={workdir}', f'--config.epochs={_EPOCHS}',
            '--config.points_per_checkpoint=1',
            '--noconfig.dense_reference', *arguments,
        ],
        stdout=log, stderr=log,
    )  # fmt: skip


def output(workdir):
  with open(str(workdir) + '.log', encoding='utf-8') as log:
    return log.read()


def wait_until(condition, process, workdir):
  while not condition():
    assert process.poll() is None, output(workdir)
    time.sleep(0.001)


def points(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def kill(process):
  process.kill()
  assert process.wait() == -signal.SIGKILL


def assert_same(workdir, expected):
  for name in ('metrics.jsonl', 'table.md', 'config.json'):
    assert (workdir / name).read_bytes() == (expected / name).read_bytes()
  first, second = (
    json.loads((path / 'result.json').read_text())
    for path in (workdir, expected)
  )
  assert first['test_accuracy'] == second['test_accuracy']
  dataset = train.input_pipeline.load_dataset('digits')
  model = train.models.create_model('lenet300', 10)
  params, _ = initial.initial_variables(get_config(), model, dataset)
  weights = [
    checkpointing.restore(str(path), {'params': params})
    for path in (workdir, expected)
  ]
  jax.tree.map(np.testing.assert_array_equal, *weights)


def test_killed_while_it_saves_and_at_any_time(uninterrupted, tmp_path):
  process = start(tmp_path)
  checkpoints = tmp_path / 'checkpoints'
  is_saving = lambda: any('tmp' in path.name for path in checkpoints.glob('*'))
  wait_until(lambda: points(tmp_path) > 3 and is_saving(), process, tmp_path)
  kill(process)
  before = points(tmp_path)
  assert before < _EPOCHS

  process = start(tmp_path, '--resume')
  goal = random.randrange(before + 1, _EPOCHS - 5)
  wait_until(lambda: points(tmp_path) >= goal, process, tmp_path)
  kill(process)
  assert points(tmp_path) < _EPOCHS

  process = start(tmp_path, '--resume')
  assert process.wait() == 0, output(tmp_path)
  assert_same(tmp_path, uninterrupted)


def test_sigterm(uninterrupted, tmp_path):
  process = start(tmp_path)
  wait_until(lambda: points(tmp_path) > 2, process, tmp_path)
  process.terminate()
  assert process.wait() == 128 + signal.SIGTERM
  assert 'Stopped by SIGTERM at step' in output(tmp_path)
  assert 'Traceback' not in output(tmp_path)
  with checkpointing.Checkpoints(str(tmp_path)) as found:
    newest = found.newest()
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(lines[-1])['step'] == newest

  train.train_and_evaluate(get_config(), str(tmp_path), resume=True)
  assert_same(tmp_path, uninterrupted)


def test_ctrl_c(capsys):
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with interruption.notice(active=True) as requested:
      assert requested() == 0
      signal.raise_signal(signal.SIGINT)
      assert requested() == signal.SIGINT
      assert 'once more stops at once' in capsys.readouterr().err
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)

    # As in the background of a shell.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.notice(active=True) as requested:
      signal.raise_signal(signal.SIGINT)
      assert requested() == 0
  finally:
    signal.signal(signal.SIGINT, before)
  error = interruption.Interrupted(3, 8, signal.SIGINT)
  assert str(error).startswith('Stopped by Ctrl-C at step 3 of 8')
  assert error.exit_code == 130


def test_the_newest_are_kept(uninterrupted):
  found = sorted(int(p.name) for p in (uninterrupted / 'checkpoints').iterdir())
  steps = [
    json.loads(line)['step']
    for line in (uninterrupted / 'metrics.jsonl').read_text().splitlines()
  ]
  assert found == steps[-2:]


class TestUnfinishedRuns:
  @pytest.fixture
  def workdir(self, tmp_path):
    config = get_config(epochs=2)
    train.train_and_evaluate(config, str(tmp_path))
    (tmp_path / 'result.json').unlink()
    return tmp_path

  def test_are_not_overwritten(self, workdir):
    with pytest.raises(ValueError, match='not finished: go on with --resume'):
      train.train_and_evaluate(get_config(epochs=2), str(workdir))

  def test_are_not_resumed_with_another_config(self, workdir):
    config = get_config(epochs=2)
    config.seed = 5
    with pytest.raises(ValueError, match=r"differ: \['seed'\]"):
      train.train_and_evaluate(config, str(workdir), resume=True)

  def test_finished_ones_are_overwritten(self, workdir):
    (workdir / 'result.json').write_text('{}')
    train.train_and_evaluate(get_config(epochs=1), str(workdir))
    assert points(workdir) == 1


def test_what_the_doctor_found_before_the_freeze_is_kept(tmp_path, monkeypatch):
  config = get_config(epochs=4)
  config.freeze_at = 0.5
  monkeypatch.setattr(
    train,
    'diagnose',
    lambda state, _: ['a target'] if int(state.step) < 38 else [],
  )
  points_seen = []
  with monkeypatch.context() as patch:
    # SIGTERM at the third of four points, after the freeze.
    stop = lambda _: points_seen.append(0) or len(points_seen) == 3
    patch.setattr(hosts, 'any_of', stop)
    with pytest.raises(interruption.Interrupted):
      train.train_and_evaluate(config, str(tmp_path))
  result = train.train_and_evaluate(config, str(tmp_path), resume=True)
  assert result['findings'] == ['a target']


def test_a_run_that_is_older_than_a_field(tmp_path):
  """The field had its default; another value is refused."""
  config = digits_mlp_scl.get_config()
  config.update(epochs=1, dense_reference=False, points_per_epoch=1)
  train.train_and_evaluate(config, str(tmp_path))
  path = tmp_path / 'config.json'
  stored = json.loads(path.read_text())
  del stored['flip'], stored['stream_workers'], stored['consensus']['costs']
  path.write_text(json.dumps(stored))
  run = finished_run.load(str(tmp_path), num_images=2)
  assert run.config.stream_workers == 0
  path.write_text(json.dumps(stored))
  config.flip = True
  with pytest.raises(ValueError, match=r"these fields differ: \['flip'\]"):
    train.train_and_evaluate(config, str(tmp_path), resume=True)
  config.flip = False
  train.train_and_evaluate(config, str(tmp_path), resume=True)


def test_a_checkpoint_without_findings(tmp_path):
  """As they were before the field."""
  state = train.TrainState(jnp.int32(5), {'w': jnp.ones(2)}, {}, ())
  progress = checkpointing.Progress([{'step': 5, 'loss': 0.5}], ['x'], 1.5)
  with checkpointing.Checkpoints(str(tmp_path)) as found:
    found.save(state, progress)
  path = tmp_path / 'checkpoints' / '5' / 'progress' / 'metadata'
  stored = json.loads(path.read_text())
  assert stored.pop('findings') == ['x']
  path.write_text(json.dumps(stored))
  with checkpointing.Checkpoints(str(tmp_path)) as found:
    again, left = found.restore(state)
  assert left == progress._replace(findings=[])
  np.testing.assert_array_equal(again.params['w'], [1, 1])


@pytest.fixture
def left_by_orbax():
  """Coroutines that it gives up when a read fails; they complain later."""
  yield
  gc.collect()


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.usefixtures('left_by_orbax')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
  'pattern', ['state/ocdbt.process_0/d/*', 'state/_METADATA', 'progress/meta*']
)
def test_damaged_checkpoints(tmp_path, pattern):
  arrays = np.random.default_rng(0).normal(size=(100, 100))
  state = lambda step: train.TrainState(
    jnp.int32(step), {'w': jnp.asarray(arrays, jnp.float32)}, {}, ()
  )
  progress = checkpointing.Progress([], [], 1.5)
  with checkpointing.Checkpoints(str(tmp_path)) as found:
    for step in (5, 7):
      found.save(state(step), progress)
  for path in (tmp_path / 'checkpoints' / '7').glob(pattern):
    cut(path)
  with (
    checkpointing.Checkpoints(str(tmp_path)) as found,
    pytest.raises(ValueError, match='missing or damaged: ') as error,
  ):
    found.restore(state(0))
  folder = tmp_path / 'checkpoints' / '7'
  assert str(error.value).startswith(f'The checkpoint {folder} cannot be read')
  assert 'remove it, and --resume goes on from step 5. (' in str(error.value)
  assert len(str(error.value).splitlines()) == 1
  shutil.rmtree(folder)
  with checkpointing.Checkpoints(str(tmp_path)) as found:
    again, _ = found.restore(state(0))
  assert again.step == 5


def test_what_cannot_be_written(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise ValueError('OUT_OF_RANGE: Error writing\n' + 'pages of it\n' * 100)

  state = train.TrainState(jnp.int32(5), {'w': jnp.ones(3)}, {}, ())
  progress = checkpointing.Progress([], [], 1.5)
  monkeypatch.setattr(ocp.CheckpointManager, 'save', fail)
  monkeypatch.setattr(ocp.StandardCheckpointer, 'save', fail)
  message = r'cannot be written: see that the disk has room .*OUT_OF_RANGE'
  with (
    pytest.raises(OSError, match=message) as error,
    checkpointing.Checkpoints(str(tmp_path)) as found,
  ):
    found.save(state, progress)
  assert len(str(error.value).splitlines()) == 1
  with pytest.raises(OSError, match=message):
    checkpointing.save(str(tmp_path), {'w': jnp.ones(3)})


@pytest.mark.usefixtures('left_by_orbax')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('pattern', ['**/manifest.ocdbt', '_METADATA'])
def test_damaged_networks(tmp_path, pattern):
  made_workdir.write(tmp_path)
  for path in (tmp_path / 'checkpoint').glob(pattern):
    cut(path)
  like = {'masks': {'Dense_1': {'kernel': jnp.ones((30, 10))}}}
  for read in (
    lambda: checkpointing.restore(str(tmp_path), like),
    lambda: report.write(str(tmp_path)),
  ):
    with pytest.raises(ValueError, match=r'checkpoint cannot be .*train again'):
      read()


def test_a_damaged_config(tmp_path):
  made_workdir.write(tmp_path)
  (tmp_path / 'checkpoints' / '76').mkdir(parents=True)
  cut(tmp_path / 'config.json')
  for run in (
    lambda: train.train_and_evaluate(get_config(), str(tmp_path), resume=True),
    lambda: report.write(str(tmp_path)),
    lambda: finished_run.load(str(tmp_path), num_images=1),
  ):
    with pytest.raises(ValueError, match=r'config\.json is no JSON, as if it'):
      run()


def test_nothing_to_resume_is_a_fresh_run(tmp_path):
  train.train_and_evaluate(get_config(epochs=1), str(tmp_path), resume=True)
  assert points(tmp_path) == 1


def test_no_checkpoint(tmp_path):
  with (
    checkpointing.Checkpoints(str(tmp_path)) as found,
    pytest.raises(FileNotFoundError, match='no checkpoint'),
  ):
    found.restore({})
  with pytest.raises(ValueError, match='keep_checkpoints must be >= 1, got 0'):
    checkpointing.Checkpoints(None, keep=0)
