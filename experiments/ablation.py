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
"""What each part of the recipe is worth, on MNIST with LeNet-300-100.

    python -m experiments.ablation --workdir=experiments/results/ablation

Every variant changes one thing. In the first table all have the same density,
by the controller, so that accuracies compare; the second has a fixed penalty
and shows what density comes out. Accuracies are of a validation split of the
training data; the test split is not read.
"""

from collections.abc import Callable
import json
import os
from typing import Any

from absl import flags
import ml_collections
import numpy as np
import optax
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments import findings
from experiments import input_pipeline
from experiments import models
from experiments import result_store
from experiments import train
from experiments.configs import mnist_lenet300_scl
import scl_jax
from scl_jax import checks

_DENSITY, _PENALTY = 0.01, 0.005
_VALIDATION_SIZE = 10_000

# Per layer an entry of the normalised gradient is about 1 / sqrt(300) of what
# it is per feature in the first layer, so the same learning rate needs a gain.
_LAYER_GAIN = 17.3


def variants() -> dict[str, Callable[[], dict[str, Any]]]:
  """Arguments of `scl` by which each variant departs from the recipe."""
  norm = scl_jax.normalize_by_feature_norm
  estimators = {
    f'estimator {name}': lambda name=name: {'estimator': name}
    for name in scl_jax.ste.ESTIMATORS
    if name != 'identity'
  }
  return {
    'the recipe': dict,
    **estimators,
    'norm of the current batch': lambda: {'normalizer': norm()},
    'norm per layer, running': lambda: {
      'normalizer': optax.chain(norm(0.99, ()), optax.scale(_LAYER_GAIN))
    },
    'norm per layer, current batch': lambda: {
      'normalizer': optax.chain(norm(None, ()), optax.scale(_LAYER_GAIN))
    },
    'no norm, gain 50': lambda: {'normalizer': optax.scale(50.0)},
    'no norm, gain 500': lambda: {'normalizer': optax.scale(500.0)},
    'norm refreshed every step': lambda: {'normalizer': norm(0.99)},
    'penalty before the norm': lambda: {'penalty_order': 'before'},
    'no box': lambda: {'box': None},
    'mask variables in bfloat16': lambda: {'mask_dtype': 'bfloat16'},
    'a variable for 4 inputs': lambda: {'granularity': (4, 1)},
    'a variable for 4 x 4': lambda: {'granularity': (4, 4)},
  }


def measure(
  dataset: input_pipeline.Dataset,
  arguments: dict[str, Any],
  seed: int,
  epochs: int,
) -> dict[str, Any]:
  """Trains one variant; returns its validation accuracy and density."""
  config = _config(seed, epochs)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  rule_of = lambda num_steps: scl_jax.scl(
    freeze_step=train.freeze_step(config, num_steps), **arguments
  )
  run = train.fit(
    config, model, dataset.without_validation(), make_rule=rule_of
  )
  return {
    'seed': seed,
    'accuracy': train.accuracy(model, run.state.params, dataset.validation),
    'density': float(scl_jax.density(scl_jax.get_masks(run.state.opt_state))),
    'findings': run.findings,
  }


def _config(seed: int, epochs: int) -> ml_collections.ConfigDict:
  """What all variants share, but for the rule."""
  config = mnist_lenet300_scl.get_config()
  config.seed, config.epochs = seed, epochs
  config.points_per_epoch = 1
  return config


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
  """Mean and sample standard deviation of each variant, as Markdown."""
  lines = ['| variant | accuracy | density |', '|---|--:|--:|']
  for name, points in rows.items():
    accuracy = result_store.plus_minus(
      *result_store.mean_and_std([100 * p['accuracy'] for p in points])
    )
    density = 100 * np.mean([p['density'] for p in points])
    lines.append(f'| {name} | {accuracy} % | {density:.3g} % |')
  return '\n'.join(lines)


def load(path: str, epochs: int) -> dict[str, Any]:
  """The report so far, or a new one.

  Args:
    path: Of `results.json`, which may be missing.
    epochs: Of each run to come.

  Returns:
    What is in the file.

  Raises:
    ValueError: If its runs are of another length, it is the report of another
      experiment or none, or the folder is that of a single run.
    OSError: If the folder cannot be made or written to.
  """
  empty = {
    'epochs': epochs,
    'split': f'validation, {_VALIDATION_SIZE} training examples',
    f'density {_DENSITY}': {},
    f'penalty {_PENALTY}': {},
  }
  report = artifacts.read_json(path) if os.path.exists(path) else {}
  is_ours = report.keys() >= empty.keys()
  if is_ours and report['epochs'] != epochs:
    raise ValueError(
      f'{path} holds runs of {report["epochs"]} epochs, which do not compare '
      f'with runs of {epochs}: give --epochs={report["epochs"]}, or another '
      '--workdir.'
    )
  if is_ours and 'config' not in report:  # it is older than that field
    result_store.check_workdir(os.path.dirname(path))
    return report
  return result_store.load(
    os.path.dirname(path),
    _config(0, epochs),
    module='experiments.ablation',
    # The rule is that of a variant.
    ignore=('penalty', 'target_density', 'scl'),
    empty=empty,
  )


def ablate(workdir: str, *, seeds: int, epochs: int) -> str:
  """Runs what `results.json` does not hold yet.

  Args:
    workdir: Where `results.json` and `table.md` go.
    seeds: Runs of each variant.
    epochs: Of each run.

  Returns:
    Both tables, and what was found in the runs.

  Raises:
    ValueError: If a number is no whole one, the folder holds a single run, or
      `results.json` runs of another length.
    OSError: If the folder cannot be made or written to.
  """
  checks.check_whole('--seeds', seeds, 1)
  checks.check_whole('--epochs', epochs, 1)
  path = os.path.join(workdir, 'results.json')
  report = load(path, epochs)
  dataset = input_pipeline.load_dataset(
    'mnist', validation_size=_VALIDATION_SIZE
  )
  setting = {
    f'density {_DENSITY}': {'target_density': _DENSITY},
    f'penalty {_PENALTY}': {'penalty': _PENALTY},
  }
  todo = [
    (block, name, seed)
    for block in setting
    for name in variants()
    for seed in range(seeds)
    # A fixed penalty means the same only where the scale is the same.
    if 'density' in block or 'norm' not in name
  ]
  for block, name, seed in tqdm.tqdm(todo, unit='run', disable=None):
    points = report[block].setdefault(name, [])
    if seed not in [point['seed'] for point in points]:
      arguments = {**setting[block], **variants()[name]()}
      points.append(measure(dataset, arguments, seed, epochs))
      artifacts.write_text(path, json.dumps(report, indent=1))
  text = '\n\n'.join(
    f'At {block}:\n\n{table(report[block])}' for block in setting
  )
  artifacts.write_text(os.path.join(workdir, 'table.md'), text + '\n')
  found = [
    finding
    for block in setting
    for name, points in report[block].items()
    for finding in findings.of_runs(points, lambda _, name=name: name)
  ]
  return text + '\n' + findings.to_text(found)


def main() -> None:
  """Trains, and prints both tables."""
  values = flags.FLAGS
  with artifacts.alone(values.workdir):
    text = ablate(values.workdir, seeds=values.seeds, epochs=values.epochs)
    print(text, end='')


if __name__ == '__main__':
  flags.DEFINE_string(
    'workdir', None, 'Where results are written.', required=True
  )
  flags.DEFINE_integer('seeds', 3, 'Runs of each variant.')
  flags.DEFINE_integer('epochs', 12, 'Epochs of a run.')
  command_line.run(
    main,
    after_interrupt='What is in results.json stays: the same command goes on.',
  )
