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
        --config.densities='(0.1, 0.02)' --config.seeds=2

Trains an epoch of all points together and one after another, in turn. The first
turn of each compiles, and is reported apart. A sweep compiles once together,
and one after another once for each point (here once for all). On a CPU seconds
are CPU time of the process, so that other processes do not count. Ratios are
time together / time one after another: below 1, together pays.

The command above, with two rounds on one core of a shared x86-64 CPU: 6.2 s
together, 3.3 s one after another, x 1.9; no accelerator was at hand.
"""

from collections.abc import Callable, Sequence
import json
import statistics
import time
from typing import Any

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments import feeds
from experiments import input_pipeline
from experiments import models
from experiments import together
from experiments import training_step
from experiments.benchmarks import preflight

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Epochs each way.', 1)
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')


def measure(config: ml_collections.ConfigDict, rounds: int) -> dict[str, Any]:
  """Times both ways.

  Args:
    config: With `densities` and `seeds`.
    rounds: How many epochs each way.

  Returns:
    Seconds each way for an epoch of all points and for the compilation with
    the first epoch, and the ratio of the former: medians over rounds.

  Raises:
    ValueError: If there are fewer than two points.
  """
  configs = [
    _point(config, density, seed)
    for density in config.densities
    for seed in range(config.seeds)
  ]
  if len(configs) < 2:
    raise ValueError(
      'Give at least two points, by --config.densities and --config.seeds; got '
      f'{len(configs)}.'
    )
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  runs = {
    'together': _run_together(configs, model, dataset),
    'alone': _run_alone(configs, model, dataset),
  }
  clock = (
    time.process_time if jax.default_backend() == 'cpu' else time.perf_counter
  )
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in tqdm.trange(rounds + 1, disable=None):
    for name, run in runs.items():
      start = clock()
      run()
      seconds[name].append(clock() - start)
  together_epochs, alone_epochs = (seconds[name][1:] for name in runs)
  return {
    'points': len(configs),
    'together_seconds': statistics.median(together_epochs),
    'alone_seconds': statistics.median(alone_epochs),
    'ratio': statistics.median(
      a / b for a, b in zip(together_epochs, alone_epochs, strict=True)
    ),
    'together_first_seconds': seconds['together'][0],
    'alone_first_seconds': seconds['alone'][0],
  }


def _point(
  config: ml_collections.ConfigDict, density: float, seed: int
) -> ml_collections.ConfigDict:
  point = config.copy_and_resolve_references()
  point.update(target_density=density, seed=seed)
  return point


def _run_together(
  configs: Sequence[ml_collections.ConfigDict],
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Callable[[], Any]:
  """A function that goes on for an epoch with all points."""
  program = together.compose(configs, model, dataset)
  states = program.states

  def run():
    nonlocal states
    states, metrics = program.run_steps(
      states, program.arrays, program.batches(0, program.steps_per_epoch)
    )
    jax.block_until_ready((states, metrics))

  return run


def _run_alone(
  configs: Sequence[ml_collections.ConfigDict],
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Callable[[], Any]:
  """The same for each alone, with one program, as only states differ."""
  feeds_of = [feeds.make_feed(config, dataset.train) for config in configs]
  feed, config = feeds_of[0], configs[0]
  steps = feed.steps_per_epoch
  starts = [
    together.start(c, model, dataset, steps * c.epochs) for c in configs
  ]
  states = [state for _, state in starts]
  run_steps = training_step.make_run_steps(
    training_step.make_step(
      config, model, starts[0][0], dataset.train.scaling, feed.take
    ),
    scan=not training_step.loops_are_slow(states[0].params),
  )

  def run():
    for i, own in enumerate(feeds_of):
      states[i], _ = run_steps(states[i], feed.arrays, own.batches(0, steps))
    jax.block_until_ready(states)

  return run


def main() -> None:
  """Measures, prints and writes JSON."""
  preflight.check_output(_OUTPUT.value)
  config = _CONFIG.value
  found = measure(config, _ROUNDS.value)
  report = {
    'command': artifacts.command('experiments.benchmarks.together'),
    **artifacts.measured_on(),
    'model': config.model,
    'dataset': config.dataset,
    'batch_size': config.batch_size,
    'rounds': _ROUNDS.value,
    **found,
  }
  print(json.dumps(report, indent=1))
  if _OUTPUT.value:
    artifacts.write_text(_OUTPUT.value, json.dumps(report, indent=1))


if __name__ == '__main__':
  command_line.run(main, required=('config',), keep_programs=False)
