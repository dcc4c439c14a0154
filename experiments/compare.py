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
   training split. A method that cannot be asked for a density spends its
   trials on finding the strength that leads there.
2. With its best settings (those of the nearest tuned density) it trains on the
   whole training split with every seed, and the test split is read once a run.

`results.json` is rewritten after each run, and runs in it are not repeated.
"""

from collections.abc import Iterator, Mapping, Sequence
import json
import math
import os
import platform
import shlex
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags
import tqdm

from experiments import artifacts
from experiments import comparison_report
from experiments import contenders
from experiments import input_pipeline
from experiments import models
from experiments import train
import scl_jax
from scl_jax import tree as tree_lib

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The comparison.')
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where results are written.', required=True
)

# A trial this near to a density, relative, ends the search for it.
_CLOSE = 0.03


def compare(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Runs all trials and all final runs that `results.json` does not hold yet.

  Args:
    config: With `compare`: methods, densities, seeds, tuning_densities,
      tuning_examples, trials.
    workdir: Where `results.json`, `table.md` and `front.png` go.

  Returns:
    What is in `results.json`.

  Raises:
    ValueError: If methods have different numbers of trials, or the workdir
      holds the results of another config.
  """
  plan = config.compare
  counts = {
    name: plan.search_trials
    if contenders.CONTENDERS[name].strength
    else len(plan.trials.get(name, ()))
    for name in plan.methods
    if name != 'shuffled'
  }
  if len(set(counts.values())) > 1:
    raise ValueError(
      'Every method must have the same number of trials in '
      f'config.compare.trials; got {counts}.'
    )
  os.makedirs(workdir, exist_ok=True)
  store = _Store(os.path.join(workdir, 'results.json'), config)
  tuning = _load(config, plan.tuning_examples)
  for name, density in tqdm.tqdm(
    [(n, d) for n in plan.methods for d in _tuned(config, n)],
    unit='search',
    disable=None,
  ):
    for settings in _trials(config, store, name, density):
      if store.find('trials', name, density, 0, settings) is None:
        store.add('trials', measure(config, tuning, name, density, 0, settings))
  whole = _load(config, 0)
  for seed in tqdm.trange(plan.seeds, unit='seed', disable=None):
    for density in plan.densities:
      for name in plan.methods:
        settings = choose(config, store.report['trials'], name, density)
        if store.find('points', name, density, seed, settings) is None:
          store.add(
            'points', measure(config, whole, name, density, seed, settings)
          )
  comparison_report.write(workdir, store.report)
  return store.report


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
  model = models.create_model(one.model, dataset.num_classes)
  trained = contenders.run(one, name, model, dataset)
  split = (
    dataset.validation if dataset.validation.num_examples else dataset.test
  )
  macs = scl_jax.costs(
    lambda params, x: model.apply({'params': params}, x),
    trained.params,
    jnp.zeros((1, *dataset.train.image_shape)),
  )
  live = total = live_macs = dense_macs = 0.0
  for _, mask, cost in tree_lib.zip_leaves(
    trained.masks,
    jax.tree.map(
      lambda _, m, c: None if m is None else c,
      trained.params,
      trained.masks,
      macs,
    ),
  ):
    count = int(mask.sum())
    live, total = live + count, total + mask.size
    live_macs, dense_macs = (
      live_macs + count * cost,
      dense_macs + mask.size * cost,
    )
  size = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
  # A third of a dense step each: forward, gradients of inputs, of weights.
  dense_share = contenders.CONTENDERS[name].dense_gradients
  sparse_share = (3 - dense_share) * trained.mean_density
  return {
    'method': name,
    'asked': density,
    'seed': seed,
    'settings': dict(settings),
    'accuracy': train.accuracy(model, trained.params, split),
    'density': float(scl_jax.density(trained.masks)),
    'live': int(live),
    'compression': size / (size - total + live),
    'speedup': dense_macs / max(live_macs, 1.0),
    'training_cost': (sparse_share + dense_share) / 3,
    'seconds': round(trained.seconds, 1),
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
  if contenders.CONTENDERS[name].strength is not None:
    return min(mine, key=lambda t: distance(t['density']))['settings']
  nearest = min(_tuned(config, name), key=distance)
  mine = [t for t in mine if t['asked'] == nearest]
  return max(mine, key=lambda t: t['accuracy'])['settings']


def _tuned(config: ml_collections.ConfigDict, name: str) -> tuple[float, ...]:
  """The densities at which a contender has trials."""
  if name == 'shuffled':
    return ()
  if contenders.CONTENDERS[name].strength is None:
    return tuple(config.compare.tuning_densities)
  return tuple(config.compare.densities)


def _trials(
  config: ml_collections.ConfigDict, store: '_Store', name: str, density: float
) -> Iterator[dict[str, Any]]:
  """The settings to try; of a strength, each after the outcome of the last."""
  contender = contenders.CONTENDERS[name]
  if contender.strength is None:
    yield from (dict(trial) for trial in config.compare.trials[name])
    return
  for _ in range(config.compare.search_trials):
    tried = [t for t in store.report['trials'] if t['method'] == name]
    if any(abs(t['density'] / density - 1) < _CLOSE for t in tried):
      return
    yield {contender.strength: float(f'{_next(contender, tried, density):.3g}')}


def _next(
  contender: contenders.Contender,
  tried: Sequence[Mapping[str, Any]],
  density: float,
) -> float:
  """A strength between the two that came closest from either side.

  False position with logarithms, where both are known; else the middle.
  """
  known = [
    (math.log(t['settings'][contender.strength]), math.log(t['density']))
    for t in tried
    if t['density'] > 0
  ]
  goal = math.log(density)
  low, high = (math.log(end) for end in contender.strengths)
  dense = max((k for k in known if k[1] > goal), default=(low, math.nan))
  sparse = min((k for k in known if k[1] <= goal), default=(high, math.nan))
  share = (dense[1] - goal) / (dense[1] - sparse[1])
  # Away from the ends, which would be tried again and again.
  share = 0.5 if math.isnan(share) else min(max(share, 0.1), 0.9)
  return math.exp(dense[0] + share * (sparse[0] - dense[0]))


def _load(
  config: ml_collections.ConfigDict, validation_size: int
) -> input_pipeline.Dataset:
  config = config.copy_and_resolve_references()
  config.validation_size = validation_size
  return input_pipeline.from_config(config)


class _Store:
  """`results.json`."""

  def __init__(self, path: str, config: ml_collections.ConfigDict):
    self._path = path
    settings = json.loads(config.to_json())
    # More of these adds runs, and changes none.
    for name in ('methods', 'seeds'):
      settings['compare'].pop(name)
    self.report: dict[str, Any] = {
      'command': 'python -m experiments.compare ' + shlex.join(sys.argv[1:]),
      'config': settings,
      'jax': jax.__version__,
      'device': str(jax.devices()[0]),
      'machine': f'{platform.machine()}, {os.cpu_count()} cores',
      'trials': [],
      'points': [],
    }
    if os.path.exists(path):
      with open(path, encoding='utf-8') as file:
        self.report = json.load(file)
      if self.report['config'] != settings:
        raise ValueError(
          f'{path} holds results of another config. Give another --workdir.'
        )

  def find(
    self,
    kind: str,
    name: str,
    density: float,
    seed: int,
    settings: Mapping[str, Any],
  ) -> dict[str, Any] | None:
    """The entry of a run, if it is there."""
    key = (name, density, seed, dict(settings))
    for entry in self.report[kind]:
      names = ('method', 'asked', 'seed', 'settings')
      if tuple(entry[field] for field in names) == key:
        return entry
    return None

  def add(self, kind: str, entry: dict[str, Any]) -> None:
    """Adds a run, and writes the file."""
    self.report[kind].append(entry)
    artifacts.write_text(self._path, json.dumps(self.report, indent=1))
    tqdm.tqdm.write(json.dumps(entry))


def main(argv: list[str]) -> None:
  """Runs the comparison and prints the tables."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  try:
    report = compare(_CONFIG.value, _WORKDIR.value)
  except (ValueError, FileNotFoundError) as error:
    raise SystemExit(f'{type(error).__name__}: {error}') from error
  print(comparison_report.tables(report))


if __name__ == '__main__':
  flags.FLAGS.set_default('verbosity', logging.WARNING)
  jax.config.config_with_absl()
  flags.mark_flag_as_required('config')
  app.run(main)
