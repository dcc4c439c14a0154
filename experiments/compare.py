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
r"""Methods × densities × seeds, compared fairly.

    python -m experiments.compare \
        --config=experiments/configs/mnist_lenet300_compare.py \
        --workdir=experiments/results/mnist_lenet300_compare

All methods start from the same weights for a seed, see the same batches and
train for the same number of epochs, a method's own retraining included.

1. Every method has the same number of trials, `trials` of the config, at each
   of `tuning_densities`, with one seed, judged on examples set aside from the
   training split. A method that cannot be asked for a density spends as many
   trials at each of `densities` on finding the strength that leads there.
2. With its best settings (those of the nearest tuned density) it trains on the
   whole training split with every seed, and the test split is read once a run.

`results.json` is rewritten after each run, and runs in it are not repeated.

Methods that remove connections are here; whole blocks, channels and filters, of
gates, SCL and magnitudes, are compared by `experiments.consensus`.
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import tqdm

from experiments import command_line
from experiments import comparison_report
from experiments import config_checks
from experiments import contenders
from experiments import findings
from experiments import input_pipeline
from experiments import models
from experiments import report as report_page
from experiments import result_store
from experiments import train
import scl_jax
from scl_jax import tree as tree_lib

# More of these adds runs, and changes none. (`points_per_epoch` is a setting:
# the training cost is a mean over points.)
_NOT_SETTINGS = ('compare.methods', 'compare.seeds')

# What a config needs besides the defaults.
_FIELDS = (
  'compare.methods', 'compare.densities', 'compare.seeds',
  'compare.tuning_densities', 'compare.tuning_examples',
  'compare.search_trials', 'compare.trials',
)  # fmt: skip

# A trial this near to a density, relative, ends the search for it.
_CLOSE = 0.03


def compare(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Runs all trials and all final runs that `results.json` does not hold yet.

  Args:
    config: With `compare`: methods, densities, seeds, tuning_densities,
      tuning_examples, search_trials, trials.
    workdir: Where `results.json`, `table.md` and `front.png` go.

  Returns:
    What is in `results.json`.

  Raises:
    ValueError: If the plan is incomplete or unfair, such as different numbers
      of trials, one of its runs is impossible, or the workdir holds the results
      of another config.
  """
  example = 'mnist_lenet300_compare.py'
  config_checks.require_fields(config, _FIELDS, example)
  plan = config.compare
  _check(plan)
  if 'nnrelief' in plan.methods:
    config_checks.require_fields(config, ('nnrelief.cut_share',), example)
  report = result_store.load(
    workdir,
    config,
    module='experiments.compare',
    ignore=_NOT_SETTINGS,
    empty={'trials': [], 'points': []},
  )

  def run(kind, dataset, name, density, seed, settings):
    if not _is_done(report[kind], name, density, seed, settings):
      entry = measure(config, dataset, name, density, seed, settings)
      report[kind].append(entry)
      result_store.save(workdir, report)
      tqdm.tqdm.write(json.dumps(entry))

  tuning = _load(config, plan.tuning_examples)
  _check_runs(config, tuning)
  for name, density in tqdm.tqdm(
    [(n, d) for n in plan.methods for d in _tuned(plan, n)],
    unit='search',
    disable=None,
  ):
    for settings in _trials(plan, report['trials'], name, density):
      run('trials', tuning, name, density, 0, settings)
  whole = _load(config, 0)
  for seed in tqdm.trange(plan.seeds, unit='seed', disable=None):
    for density in plan.densities:
      for name in plan.methods:
        settings = choose(config, report['trials'], name, density)
        run('points', whole, name, density, seed, settings)
  comparison_report.write(workdir, report)
  return report


def measure(
  config: ml_collections.ConfigDict,
  dataset: input_pipeline.Dataset,
  name: str,
  density: float,
  seed: int,
  settings: Mapping[str, Any],
) -> dict[str, Any]:
  """Trains one contender once, and evaluates it.

  Args:
    config: The comparison.
    dataset: Judged on its validation split if there is one, else on test.
    name: The contender.
    density: The density to reach.
    seed: The seed.
    settings: Fields by dotted name.

  Returns:
    One entry of `results.json`.
  """
  one = contenders.configure(config, name, density, seed, settings)
  model = models.create_model(one.model, dataset.num_classes, one.dtype)
  trained = contenders.run(one, name, model, dataset)
  split = (
    dataset.validation if dataset.validation.num_examples else dataset.test
  )
  macs = scl_jax.costs(
    lambda params, x: model.apply({'params': params, **trained.model_state}, x),
    trained.params,
    jnp.zeros((1, *dataset.train.image_shape)),
  )
  live = total = live_macs = dense_macs = 0.0
  for _, _, mask, cost in tree_lib.zip_leaves(
    trained.params, trained.masks, macs
  ):
    if mask is not None:
      count = int(mask.sum())
      live, total = live + count, total + mask.size
      live_macs += count * cost
      dense_macs += mask.size * cost
  size = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
  # A third of a dense step each: forward, gradients of inputs, of weights.
  dense_share = contenders.dense_gradient_share(one, name)
  sparse_share = (3 - dense_share) * trained.mean_density
  return {
    'method': name,
    'asked': density,
    'seed': seed,
    'settings': dict(settings),
    'accuracy': train.accuracy(
      model, trained.params, split, trained.model_state
    ),
    'density': float(scl_jax.density(trained.masks)),
    'live': int(live),
    'compression': size / (size - total + live),
    'speedup': dense_macs / max(live_macs, 1.0),
    'training_cost': (sparse_share + dense_share) / 3,
    'seconds': round(trained.seconds, 1),
    'findings': trained.findings,
  }


def choose(
  config: ml_collections.ConfigDict,
  trials: list[dict[str, Any]],
  name: str,
  density: float,
) -> dict[str, Any]:
  """The settings of a contender at a density, from its trials.

  Args:
    config: The comparison.
    trials: All trials.
    name: The contender.
    density: The density that is wanted.

  Returns:
    Of a method that can be asked for a density the settings that were most
    accurate, at the nearest tuned density; of another those that came nearest.
  """
  if name == 'shuffled':  # it is SCL but for the shuffling
    name = 'scl'
  distance = lambda d: abs(math.log(max(d, 1e-9) / density))
  mine = [t for t in trials if t['method'] == name]
  if contenders.get(name).strength is not None:
    return min(mine, key=lambda t: distance(t['density']))['settings']
  nearest = min(_tuned(config.compare, name), key=distance)
  mine = [t for t in mine if t['asked'] == nearest]
  return max(mine, key=lambda t: t['accuracy'])['settings']


def _check(plan: ml_collections.ConfigDict) -> None:
  """Refuses a plan that is incomplete or unfair."""
  for name in ('densities', 'tuning_densities'):
    config_checks.as_shares(f'config.compare.{name}', plan[name])
  for name in ('methods', 'densities', 'tuning_densities'):
    if not plan[name]:
      raise ValueError(f'config.compare.{name} must not be empty.')
    config_checks.check_distinct(f'config.compare.{name}', plan[name])
  for name in ('seeds', 'tuning_examples', 'search_trials'):
    if plan[name] < 1:
      raise ValueError(f'config.compare.{name} must be >= 1, got {plan[name]}.')
  if 'shuffled' in plan.methods and 'scl' not in plan.methods:
    raise ValueError(
      "config.compare.methods has 'shuffled', which takes the settings of "
      f"'scl', but not 'scl'; got {plan.methods}."
    )
  counts = {
    name: plan.search_trials
    if contenders.get(name).strength
    else len(plan.trials.get(name, ()))
    for name in plan.methods
    if name != 'shuffled'
  }
  if len(set(counts.values())) > 1 or 0 in counts.values():
    raise ValueError(
      'Every method must have the same number of trials in '
      f'config.compare.trials, at least 1; got {counts}.'
    )


def _check_runs(
  config: ml_collections.ConfigDict, dataset: input_pipeline.Dataset
) -> None:
  """Refuses a plan with a run that cannot be, before the first is trained.

  Args:
    config: The comparison.
    dataset: That of the trials. Final runs have more examples, and so more
      steps; what fits these fits them.
  """
  plan = config.compare
  for name in plan.methods:
    contender = contenders.get(name)
    trials = plan.trials.get('scl' if name == 'shuffled' else name)
    if contender.strength is not None:  # any of its range does
      trials = ({contender.strength: contender.strengths[0]},)
    for settings in trials:
      try:
        # One density does, as all of them are in range.
        one = contenders.configure(config, name, plan.densities[0], 0, settings)
        model = models.create_model(one.model, dataset.num_classes, one.dtype)
        contenders.check(one, name, model, dataset)
      except ValueError as error:
        raise ValueError(
          f'config.compare has {name!r} with {settings}, which cannot be '
          f'trained: {error}'
        ) from error


def _is_done(
  entries: Sequence[Mapping[str, Any]],
  name: str,
  density: float,
  seed: int,
  settings: Mapping[str, Any],
) -> bool:
  key = (name, density, seed, dict(settings))
  return any(
    tuple(entry[field] for field in ('method', 'asked', 'seed', 'settings'))
    == key
    for entry in entries
  )


def _tuned(plan: ml_collections.ConfigDict, name: str) -> tuple[float, ...]:
  """The densities at which a contender has trials."""
  if name == 'shuffled':
    return ()
  if contenders.get(name).strength is None:
    return tuple(plan.tuning_densities)
  return tuple(plan.densities)


def _trials(
  plan: ml_collections.ConfigDict,
  trials: Sequence[Mapping[str, Any]],
  name: str,
  density: float,
) -> Iterator[dict[str, Any]]:
  """The settings to try; of a strength, each after the outcome of the last.

  `trials` grows meanwhile. Those of later densities are not looked at, so that
  a search that is resumed, or finished, does not go on in another way. Settings
  are as JSON has them, to be known again in `results.json`.
  """
  contender = contenders.get(name)
  if contender.strength is None:
    yield from (json.loads(json.dumps(dict(t))) for t in plan.trials[name])
    return
  so_far = plan.densities[: plan.densities.index(density) + 1]
  while True:
    tried = [t for t in trials if t['method'] == name and t['asked'] in so_far]
    here = [t['settings'] for t in tried if t['asked'] == density]
    if len(here) >= plan.search_trials or any(
      abs(t['density'] / density - 1) < _CLOSE for t in tried
    ):
      return
    settings = {
      contender.strength: float(f'{_next(contender, tried, density):.3g}')
    }
    if settings in here:
      return
    yield settings


def _next(
  contender: contenders.Contender,
  tried: Sequence[Mapping[str, Any]],
  density: float,
) -> float:
  """A strength between the two that came closest from either side.

  False position with logarithms, where both are known; else the middle.
  """
  known = [
    (
      math.log(t['settings'][contender.strength]),
      math.log(t['density']) if t['density'] else -math.inf,
    )
    for t in tried
  ]
  goal = math.log(density)
  low, high = (math.log(end) for end in contender.strengths)
  dense = max((k for k in known if k[1] > goal), default=(low, math.nan))
  sparse = min((k for k in known if k[1] <= goal), default=(high, math.nan))
  share = 0.5
  if math.isfinite(dense[1] - sparse[1]):
    # Away from the ends, which would be tried again and again.
    share = min(max((dense[1] - goal) / (dense[1] - sparse[1]), 0.1), 0.9)
  return math.exp(dense[0] + share * (sparse[0] - dense[0]))


def _load(
  config: ml_collections.ConfigDict, validation_size: int
) -> input_pipeline.Dataset:
  config = config.copy_and_resolve_references()
  config.validation_size = validation_size
  return input_pipeline.from_config(config)


def main(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Trains, writes the report, and returns the tables and what was found."""
  done = compare(config, workdir)
  report_page.write(workdir)
  found = comparison_report.findings(done['points'])
  return comparison_report.tables(done) + findings.to_text(found)


if __name__ == '__main__':
  command_line.run_experiment(main)
