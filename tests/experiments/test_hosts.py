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
"""Two real processes on this machine, as one training job."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import finished_run
from experiments import hosts
from experiments import train
from experiments.configs import digits_mlp_scl

EPOCHS = 4
LIMIT = 180  # seconds after which nothing is waited for any more
TOLERANCE = 1e-5
ONE_DEVICE = os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=1')


def get_config():
  config = digits_mlp_scl.get_config()
  config.epochs, config.target_density = EPOCHS, 0.2
  config.points_per_checkpoint = 1
  config.dense_reference = False
  return config


@pytest.fixture
def start(tmp_path):
  """Starts a process; what is left of them is killed in the end."""
  running = []

  def start(workdir, number, *arguments, env=None):
    name = str(tmp_path / f'{number}.log')
    with open(name, 'w', encoding='utf-8') as log:
      process = subprocess.Popen(
        [
            sys.executable, '-m', 'experiments.main',
            '--config=experiments/configs/digits_mlp_scl.py',
            f'--workdir={workdir}', '--config.distributed=True',
            f'--config.epochs={EPOCHS}', '--config.target_density=0.2',
            '--config.points_per_checkpoint=1', '--noconfig.dense_reference',
            '--config.mesh.fsdp=-1',
            "--config.param_axes=(('.*kernel',('fsdp',None)),('.*',()))",
            *arguments,
        ],
        stdout=log, stderr=log,
        env={
            **os.environ,
            'XLA_FLAGS': ONE_DEVICE,
            # The test compiles meanwhile, and may read what is being written.
            'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'xla'),
            **(env or {}),
        },
      )  # fmt: skip
    running.append(process)
    return process, name

  yield start
  for process in running:
    process.kill()
    process.wait()


def text(path):
  with open(path, encoding='utf-8') as file:
    return file.read()


def free_port(first=49152):
  """One that nobody listens on; SLURM's job number decides the last 4096."""
  for port in range(first + os.getpid() % 1000, 65536):
    with socket.socket() as tried:
      try:
        tried.bind(('127.0.0.1', port))
      except OSError:
        continue
      return port
  raise RuntimeError('There is no free port.')


def by_flags(port, number):
  return (
    f'--coordinator=127.0.0.1:{port}', '--num_processes=2',
    f'--process_id={number}',
  )  # fmt: skip


def by_slurm(port, number):
  return {
    'SLURM_JOB_ID': str(port - (65536 - 4096)),
    'SLURM_STEP_NODELIST': '127.0.0.1',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': str(number),
    'SLURM_LOCALID': str(number),
    'SLURM_STEP_NUM_NODES': '1',
  }


def assert_same(workdir, expected):
  found = [finished_run.load(str(p), num_images=1) for p in (workdir, expected)]
  masks, params = ([getattr(run, name) for run in found] for name in
                   ('masks', 'params'))  # fmt: skip
  assert found[1].result['density'] == pytest.approx(0.2, abs=1e-4)
  jax.tree.map(np.testing.assert_array_equal, *masks)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=TOLERANCE), *params
  )
  points = [
    [json.loads(line) for line in text(p / 'metrics.jsonl').splitlines()]
    for p in (workdir, expected)
  ]
  assert len(points[0]) == EPOCHS
  for x, y in zip(*points, strict=True):
    assert x == pytest.approx(y, abs=TOLERANCE)
  accuracies = [run.result['test_accuracy'] for run in found]
  assert accuracies[0] == pytest.approx(accuracies[1], abs=TOLERANCE)


def test_two_processes_one_of_which_is_killed(start, tmp_path):
  expected, workdir, copy = (tmp_path / n for n in ('expected', 'job', 'copy'))
  port = free_port()
  job = [start(workdir, n, '--timeout=60', *by_flags(port, n)) for n in (0, 1)]
  train.train_and_evaluate(get_config(), str(expected))  # meanwhile

  checkpoints = workdir / 'checkpoints'
  deadline = time.monotonic() + LIMIT
  while not any(p.name.isdigit() for p in checkpoints.glob('*')):
    assert all(process.poll() is None for process, _ in job), text(job[0][1])
    assert time.monotonic() < deadline
    time.sleep(0.001)
  job[0][0].kill()
  # The other one cannot go on, and does not wait for ever.
  assert job[1][0].wait(LIMIT) not in (0, -signal.SIGKILL)
  assert 'another task died' in text(job[1][1])
  assert not (workdir / 'result.json').exists()
  assert text(workdir / 'metrics.jsonl').count('\n') < EPOCHS
  shutil.copytree(workdir, copy)

  port = free_port(65536 - 4096)
  job = [
    start(workdir, n, '--timeout=60', '--resume', env=by_slurm(port, n))
    for n in range(2)
  ]
  # Meanwhile the same checkpoint goes on in one process, on one device.
  train.train_and_evaluate(get_config(), str(copy), resume=True)
  assert_same(copy, expected)
  for process, log in job:
    assert process.wait(LIMIT) == 0, text(log)
  assert_same(workdir, expected)
  assert 'Everything is beside' in text(job[0][1])
  assert 'Everything is beside' not in text(job[1][1])


def test_the_first_process_cannot_be_reached(start, tmp_path):
  begin = time.monotonic()
  process, log = start(
    tmp_path / 'alone', 1, '--timeout=1', *by_flags(free_port(), 1)
  )
  assert process.wait(LIMIT) == 1
  assert time.monotonic() - begin < LIMIT
  assert 'TimeoutError: The processes of the job did not come' in text(log)
  assert 'Traceback' not in text(log)
  assert not (tmp_path / 'alone').exists()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('127.0.0.1:1', 2), 'Give all of .* process_id=None'),
    (('127.0.0.1', 2, 1), "like 'host:1234', got '127.0.0.1'"),
    (('127.0.0.1:1', 2, 2), 'cannot join others .process 2 of 2'),
    ((), 'coordinator as JAX finds it.*Outside of SLURM'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    hosts.join(*arguments)
  with pytest.raises(ValueError, match='timeout must be >= 1 second, got 0'):
    hosts.join(timeout=0)


def test_one_process_is_the_first_of_one():
  assert hosts.is_first()
  hosts.wait('nobody')
  assert hosts.any_of(True)
  assert not hosts.any_of(False)
  tree = {'a': np.ones(2)}
  assert hosts.gather(tree) is tree
