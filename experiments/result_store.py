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
"""`results.json`: commands, the config, the machine, every run that is done.

An experiment of many runs rewrites the file after each, and when it is started
again it repeats none of them. So what decides a run must have stayed the same.
"""

from collections.abc import Mapping, Sequence
import copy
import json
import os
import shlex
from typing import Any

import ml_collections
import numpy as np

from experiments import artifacts

# Of every experiment these say which runs there are, or change none of them.
_NOT_SETTINGS = (
  'densities', 'penalties', 'methods', 'seeds', 'seed', 'dense_reference',
  'points_per_checkpoint', 'keep_checkpoints', 'stream_workers', 'tensorboard',
  'mask_history', 'together',
)  # fmt: skip


def load(
  workdir: str,
  config: ml_collections.ConfigDict,
  *,
  module: str,
  ignore: Sequence[str],
  empty: Mapping[str, Any],
) -> dict[str, Any]:
  """The report so far, or a new one, in a folder that can be written to.

  Args:
    workdir: Where `results.json` is, or will be; made if it is not there.
    config: The config of the runs to come.
    module: The module that runs them, for the report's list of commands.
    ignore: Further fields, by dotted name, that differ between runs of one
      report of this experiment or do not change them.
    empty: What a new report has besides commands, config and machine.

  Returns:
    What is in the file, with this command among its commands.

  Raises:
    ValueError: If the file holds the results of another config or experiment,
      or the folder those of a single run.
    OSError: If the folder cannot be made or written to.
  """
  check_workdir(workdir)
  path = os.path.join(workdir, 'results.json')
  ignore = (*_NOT_SETTINGS, *ignore)
  settings = _without(json.loads(config.to_json()), ignore)
  command = artifacts.command(module)
  if not os.path.exists(path):
    return {
      'commands': [command],
      'config': settings,
      **artifacts.measured_on(),
      **copy.deepcopy(dict(empty)),
    }
  report = artifacts.read_json(path)
  if _experiment_of(report) != module:
    raise ValueError(
      f'{path} holds results of {_experiment_of(report)}, not of {module}: '
      'give another --workdir.'
    )
  if 'config' not in report:
    raise ValueError(
      f'{path} lacks config, as if it were edited: give another --workdir.'
    )
  old = _without(report['config'], ignore)
  different = artifacts.differing_fields(
    artifacts.with_newer_fields(old, settings), settings
  )
  if different:
    raise ValueError(
      f'{path} holds results of another config; these fields differ: '
      f'{different}. Give another --workdir.'
    )
  if command not in report['commands']:
    report['commands'].append(command)
  return report


def check_workdir(workdir: str) -> None:
  """Makes the folder of many runs ready, or refuses it before any of them.

  Args:
    workdir: It may be missing.

  Raises:
    ValueError: If the folder holds a single run.
    OSError: If it cannot be made or written to.
  """
  if os.path.exists(os.path.join(workdir, 'result.json')):
    raise ValueError(
      f'{workdir} holds a run of experiments.main, whose table and report '
      'those of many runs would replace: give another --workdir.'
    )
  os.makedirs(workdir, exist_ok=True)
  artifacts.check_writable('--workdir', workdir)


def save(workdir: str, report: Mapping[str, Any]) -> None:
  """Writes a report as `results.json`, at once."""
  path = os.path.join(workdir, 'results.json')
  artifacts.write_text(path, json.dumps(report, indent=1))


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
  """Mean and sample standard deviation; NaN for that of a single value."""
  std = np.std(values, ddof=1) if len(values) > 1 else np.nan
  return float(np.mean(values)), float(std)


def plus_minus(mean: float, std: float | None) -> str:
  """`mean_and_std` as text: `'97.50 ± 0.10'`, of a single value `'97.50'`."""
  known = std is not None and not np.isnan(std)
  return f'{mean:.2f} ± {std:.2f}' if known else f'{mean:.2f}'


def _experiment_of(report: Mapping[str, Any]) -> str:
  """The module that wrote a report, which its first command names."""
  commands = report.get('commands') or [report.get('command', '')]
  words = shlex.split(commands[0])  # of: python -m MODULE …
  return words[2] if len(words) > 2 else 'something else'


def _without(
  settings: Mapping[str, Any], ignore: Sequence[str]
) -> dict[str, Any]:
  settings = copy.deepcopy(dict(settings))
  for name in ignore:
    *parents, field = name.split('.')
    node = settings
    for parent in parents:
      node = node.get(parent, {})
    node.pop(field, None)
  return settings
