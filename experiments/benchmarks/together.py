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
r"""Whether the points of a sweep are faster together, on the device at hand.

Run it with:

    python -m experiments.benchmarks.together \
        --config=experiments/configs/mnist_lenet300_scl.py \
        --config.densities='(0.1, 0.02)' --config.seeds=2 --config.epochs=4

Trains the points together and one after another, in turn. Each turn is made for
one epoch and for all `config.epochs`: the difference is training alone, without
the compilation, of which there is one together and one for each point else.
Ratios are time together / time one after another: below 1, together pays, and
`config.together` should be `True` where it is not chosen.
"""

import json
import os
import platform
import statistics
import time
from typing import Any

from absl import app
from absl import flags
import jax
import ml_collections
from ml_collections import config_flags

from experiments import artifacts
from experiments import input_pipeline
from experiments import models
from experiments import together
from experiments import train

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
_ROUNDS = flags.DEFINE_integer('rounds', 1, 'How often each way.', 1)
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')


def measure(config: ml_collections.ConfigDict, rounds: int) -> dict[str, Any]:
  """Times both ways.

  Args:
    config: With `densities` and `seeds`, and at least two epochs.
    rounds: How often.

  Returns:
    The number of points, and for the whole and for one epoch of training alone
    the seconds of all points each way and their ratio, medians over rounds.

  Raises:
    ValueError: If there are fewer than two points or epochs.
  """
  count = len(config.densities) * config.seeds
  if count < 2 or config.epochs < 2:
    raise ValueError(
      'Give at least two points, by --config.densities and --config.seeds, and '
      f'two epochs; got {count} and {config.epochs}.'
    )
  dataset = input_pipeline.from_config(config)
  dataset = dataset._replace(validation=dataset.validation.take(slice(0)))
  model = models.create_model(config.model, dataset.num_classes, config.dtype)

  def run_together(configs):
    together.fit(configs, model, dataset)

  def run_alone(configs):
    for one in configs:
      train.fit(one, model, dataset)

  rows = []
  for _ in range(rounds):
    whole, epoch = [], []
    for run in (run_together, run_alone):
      short, long = (
        _seconds(run, _points(config, epochs)) for epochs in (1, config.epochs)
      )
      whole.append(long)
      epoch.append((long - short) / (config.epochs - 1))
    rows.append({'whole': whole, 'epoch': epoch})
  return {
    'points': count,
    **{
      name: {
        'together_seconds': statistics.median(row[name][0] for row in rows),
        'alone_seconds': statistics.median(row[name][1] for row in rows),
        'ratio': statistics.median(row[name][0] / row[name][1] for row in rows),
      }
      for name in ('whole', 'epoch')
    },
  }


def _points(
  config: ml_collections.ConfigDict, epochs: int
) -> list[ml_collections.ConfigDict]:
  points = []
  for density in config.densities:
    for seed in range(config.seeds):
      point = config.copy_and_resolve_references()
      point.update(target_density=density, seed=seed, epochs=epochs)
      points.append(point)
  return points


def _seconds(run, configs) -> float:
  start = time.perf_counter()
  run(configs)
  return time.perf_counter() - start


def main(argv: list[str]) -> None:
  """Measures, prints and writes JSON."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  config = _CONFIG.value
  try:
    found = measure(config, _ROUNDS.value)
  except (ValueError, FileNotFoundError) as error:
    raise SystemExit(f'{type(error).__name__}: {error}') from error
  report = {
    'jax': jax.__version__,
    'device': str(jax.devices()[0]),
    'machine': f'{platform.machine()}, {len(os.sched_getaffinity(0))} cores',
    'model': config.model,
    'dataset': config.dataset,
    'batch_size': config.batch_size,
    'epochs': config.epochs,
    'rounds': _ROUNDS.value,
    **found,
  }
  for name in ('whole', 'epoch'):
    row = found[name]
    print(
      f'{name:6} {row["together_seconds"]:8.1f} s together, '
      f'{row["alone_seconds"]:8.1f} s one after another: '
      f'x {row["ratio"]:.2f}'
    )
  if _OUTPUT.value:
    artifacts.write_text(_OUTPUT.value, json.dumps(report, indent=1))


if __name__ == '__main__':
  jax.config.config_with_absl()
  flags.mark_flag_as_required('config')
  app.run(main)
