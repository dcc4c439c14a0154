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
r"""The command line: flags only. `experiments.train` does the work.

For example:

    python -m experiments.main \
        --config=experiments/configs/digits_mlp_scl.py \
        --workdir=workdirs/digits --config.seed=1

Of several processes, see docs/scaling.md, each is started by such a command
with --config.distributed=True.
"""

import os

from absl import flags
from ml_collections import config_flags

from experiments import artifacts
from experiments import command_line
from experiments import findings
from experiments import hosts
from experiments import interruption
from experiments import report
from experiments import train

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The experiment; change fields by --config.field=value.'
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where results are written.', required=True
)
_RESUME = flags.DEFINE_bool(
  'resume', False, 'Go on from the newest checkpoint in --workdir.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  None,
  'With --config.distributed=True, where JAX does not find it: host:port at '
  'which the first process is reached.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Along with --coordinator: how many there are.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Along with --coordinator: which one this is, from 0.'
)
_TIMEOUT = flags.DEFINE_integer(
  'timeout', 300, 'Seconds without the other processes, until it is given up.'
)


def main() -> None:
  """Trains, writes the report, and prints the table and the result."""
  where = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
  if _CONFIG.value.distributed:
    hosts.join(*where, timeout=_TIMEOUT.value)
  elif any(flag is not None for flag in where):
    raise ValueError(
      '--coordinator, --num_processes and --process_id need '
      '--config.distributed=True.'
    )
  try:
    with artifacts.alone(_WORKDIR.value):
      result = train.train_and_evaluate(
        _CONFIG.value, _WORKDIR.value, resume=_RESUME.value
      )
  except interruption.Interrupted as error:
    if hosts.is_first():
      print(error)
    raise SystemExit(error.exit_code) from error

  if not hosts.is_first():
    return
  with open(os.path.join(_WORKDIR.value, 'table.md'), encoding='utf-8') as file:
    print('\n' + file.read())
  if 'dense_test_accuracy' in result:
    print(
      f'dense   test accuracy {result["dense_test_accuracy"]:.2%}, '
      f'{result["dense_seconds"]:.1f} s'
    )
  print(
    f'{_CONFIG.value.method:7} test accuracy {result["test_accuracy"]:.2%}, '
    f'{result["seconds"]:.1f} s, density {result["density"]:.2%}'
  )
  if 'dynamic_test_accuracy' in result:
    print(
      f'        with gates {result["dynamic_test_accuracy"]:.2%}, disagreement '
      f'{result["disagreement"]:.2g}; '
      f'{result["macs"] / result["dense_macs"]:.2%} of MACs, '
      f'{result["params"] / result["dense_params"]:.2%} of parameters left'
    )
  print(findings.to_text(result['findings']), end='')
  if _CONFIG.value.distributed:
    # Reading a checkpoint would wait for the other processes.
    print(
      f'Everything is beside {os.path.join(_WORKDIR.value, "table.md")}; '
      'python -m experiments.report makes a page of it.'
    )
  else:
    print(f'Everything is beside {report.write(_WORKDIR.value)}')


if __name__ == '__main__':
  command_line.run(
    main,
    required=('config',),
    after_interrupt='Go on from the newest checkpoint with --resume.',
  )
