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
r"""The accuracy-density front: many densities, many seeds, one table.

    python -m experiments.sweep \
        --config=experiments/configs/mnist_lenet300_scl.py \
        --workdir=experiments/results/mnist_lenet300_scl \
        --config.densities='(0.02, 0.01)' --config.seeds=5

Each point is one training run from the initial weights of its seed, the same at
all densities; 1.0 in the list is the dense network. With a validation split
(`config.validation_size`) that split is reported and the test split not read;
without one the test split is read, once a point. `results.json` is rewritten
after each point or group of points, and points in it are not trained again.

Small dense networks are trained together on an accelerator, as one compiled
program, else one after another: `config.together` is the other way, `True` or
`False`. One after another they are bitwise what `experiments.main` gives;
together they differ by rounding, and a point's `together` says how many were.
"""

from collections.abc import Sequence
import json
from typing import Any

import jax
import ml_collections
import optax
import tqdm

from experiments import command_line
from experiments import config_checks
from experiments import feeds
from experiments import findings
from experiments import input_pipeline
from experiments import models
from experiments import report as report_page
from experiments import result_store
from experiments import rules
from experiments import sweep_report
from experiments import together
from experiments import train
import scl_jax

# Fields that differ between points, or do not change them.
_NOT_SETTINGS = ('target_density', 'penalty', 'points_per_epoch')


def sweep(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Trains every point that `results.json` does not hold yet.

  Args:
    config: With `densities` or `penalties`, and `seeds`.
    workdir: Where `results.json`, `table.md` and `front.png` go.

  Returns:
    What is in `results.json`.

  Raises:
    ValueError: If there is nothing to do, a density or penalty is bad, the
      config has a target of another kind, or the workdir holds the results of
      another config.
  """
  for name in ('layer_densities', 'target_macs'):
    if config[name] is not None:
      raise ValueError(
        f'A sweep is over densities or penalties, and config.{name}='
        f'{config[name]} would go before them: train it by experiments.main.'
      )
  if config.penalties and config.method in rules.WITHOUT_MASKS:
    raise ValueError(
      f'config.method={config.method!r} has no penalty, so that all points of '
      'config.penalties would be the same: leave them out.'
    )
  densities = config_checks.as_shares('config.densities', config.densities)
  penalties = config_checks.as_numbers('config.penalties', config.penalties)
  config_checks.check_distinct('config.densities', densities)
  config_checks.check_distinct('config.penalties', penalties)
  todo = {
    (field, value, seed): _config_of(config, field, value, seed)
    for field, values in (
      ('target_density', densities),
      ('penalty', penalties),
    )
    for value in values
    for seed in range(config.seeds)
  }
  if not todo:
    raise ValueError(
      'There is nothing to train: give --config.densities or '
      '--config.penalties, such as (0.02, 0.01), and --config.seeds >= 1.'
    )
  report = result_store.load(
    workdir,
    config,
    module='experiments.sweep',
    ignore=_NOT_SETTINGS,
    empty={
      'split': 'validation' if config.validation_size else 'test',
      'points': [],
    },
  )
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  done = {(p['field'], p['value'], p['seed']) for p in report['points']}
  left = {key: c for key, c in todo.items() if key not in done}
  steps_per_epoch = feeds.steps_per_epoch(config, dataset.train)
  for point_config in left.values():
    # A bad value is told now, not after the points before it.
    train.rule_of(point_config, config.epochs * steps_per_epoch)
  with tqdm.tqdm(
    total=len(todo), initial=len(todo) - len(left), unit='run', disable=None
  ) as bar:
    for keys in together.groups(left, model, dataset):
      if len(keys) == 1:
        points = [train_point(config, model, dataset, *keys[0])]
      else:
        points = train_together(config, model, dataset, keys)
      report['points'] += points
      result_store.save(workdir, report)
      for point in points:
        tqdm.tqdm.write(json.dumps(point))
      bar.update(len(keys))
  sweep_report.write(workdir, report)
  return report


def train_point(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  field: str,
  value: float,
  seed: int,
) -> dict[str, Any]:
  """One run of the sweep, the same as a run of `experiments.main`."""
  config = _config_of(config, field, value, seed)
  run = train.fit(config, model, dataset.without_validation())
  return _measure(config, model, dataset, field, value, run)


def train_together(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  keys: Sequence[tuple[str, float, int]],
) -> list[dict[str, Any]]:
  """Several points of the sweep, by field, value and seed, as one program."""
  configs = [_config_of(config, *key) for key in keys]
  runs = together.fit(configs, model, dataset.without_validation())
  return [
    {
      **_measure(c, model, dataset, field, value, run),
      'together': len(keys),
    }
    for c, (field, value, _), run in zip(configs, keys, runs, strict=True)
  ]


def _config_of(
  config: ml_collections.ConfigDict, field: str, value: float, seed: int
) -> ml_collections.ConfigDict:
  """The config of one point."""
  config = config.copy_and_resolve_references()
  config.seed = seed
  config.target_density = None  # it would go before a penalty
  config[field] = value
  if sweep_report.is_dense(field, value):
    return rules.dense_config(config)
  return config


def _measure(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  field: str,
  value: float,
  run: train.Run,
) -> dict[str, Any]:
  """What is written of a finished run."""
  split = dataset.validation if config.validation_size else dataset.test
  masks = train.get_masks(config, run.state)
  return {
    'field': field,
    'value': value,
    'seed': config.seed,
    'accuracy': train.accuracy(
      model, run.state.params, split, run.state.model_state
    ),
    'density': float(scl_jax.density(masks)),
    'live': sum(
      int(n) for n in jax.tree.leaves(scl_jax.live_connections(masks))
    ),
    'density_before_freeze': _density_before_freeze(run),
    'seconds': round(run.seconds, 1),
    'findings': run.findings,
  }


def _density_before_freeze(run: train.Run) -> float:
  """What the last step of the controller saw, else the last point."""
  state = optax.tree.get(run.state.opt_state, 'control_state')
  if state is not None:
    return float(state.density)
  points = [p['density'] for p in run.history if p['step'] < run.freeze_step]
  return points[-1] if points else 1.0


def main(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Trains, writes the report, and returns the table and what was found."""
  points = sweep(config, workdir)['points']
  report_page.write(workdir)
  table = sweep_report.table(sweep_report.summarise(points))
  return table + findings.to_text(sweep_report.findings(points))


if __name__ == '__main__':
  command_line.run_experiment(main)
