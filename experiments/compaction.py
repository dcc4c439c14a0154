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
r"""What compaction makes of networks that SCL trained, at several densities.

    python -m experiments.compaction \
        --config=experiments/configs/mnist_lenet300_scl.py \
        --workdir=experiments/results/mnist_lenet300_compaction \
        --config.densities='(0.1, 0.05, 0.02, 0.01)' --config.seeds=3

Each network is trained in the ways of `WAYS`: with one mask variable for a
connection, without and with a price on live features beside that on
connections; with one for a feature; with some layers so and some so. Then
`scl_jax.compact` removes what is dead, inputs that nobody reads included, and
dense and small network are timed in turn on this device. At equal accuracy the
question is which way leaves the smaller network.
As in `experiments.sweep`, the test split is read unless there is a validation
split, `results.json` is rewritten after each run, and no run is repeated.
"""

from collections.abc import Iterable, Mapping
import os
import types
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments import compact
from experiments import config_checks
from experiments import evaluation
from experiments import findings
from experiments import input_pipeline
from experiments import models
from experiments import preparation
from experiments import result_store
from experiments import rules
from experiments import train
import scl_jax

# Fields that differ between points, or do not change them.
_NOT_SETTINGS = ('target_density', 'penalty', 'points_per_epoch')
# What `scl_jax.scl` is given in each way.
WAYS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    'connections': {},
    'connections, feature price': {'feature_price': 0.75},
    'features': {'granularity': 'feature'},
    'mixed': {'granularity': 'mixed'},
  }
)
# What they vary, and its value where they do not.
_VARIED = {'granularity': 'connection', 'feature_price': 0.0}
# The layers in which mixed networks have one mask variable a feature. Not the
# first of a perceptron, whose features hold most connections, nor the last.
_BY_FEATURE = {'lenet300': 'Dense_1/.*'}
_CONVOLUTIONS = '(.*/)?Conv.*'
_BATCH_SIZES = (1, 32, 256)
_EXAMPLES = 32  # that outputs are compared on
_ROUNDS = 30


def experiment(
  config: ml_collections.ConfigDict, workdir: str
) -> dict[str, Any]:
  """Trains, compacts and times every network that `results.json` lacks.

  Args:
    config: With `densities` and `seeds`.
    workdir: Where `results.json` and `table.md` go.

  Returns:
    What is in `results.json`.

  Raises:
    ValueError: If there is nothing to do, a density is bad, the config sets
      what the ways vary, the workdir holds the results of another config, or a
      run diverges.
  """
  densities = config_checks.as_shares('config.densities', config.densities)
  config_checks.check_distinct('config.densities', densities)
  _check_ways(config)
  todo = [
    (way, density, seed)
    for seed in range(config.seeds)
    for density in densities
    for way in WAYS
  ]
  if not todo:
    raise ValueError(
      'There is nothing to train: give --config.densities, such as (0.05, '
      '0.01), and --config.seeds >= 1.'
    )
  report = result_store.load(
    workdir,
    config,
    module='experiments.compaction',
    ignore=_NOT_SETTINGS,
    empty={
      'split': 'validation' if config.validation_size else 'test',
      'points': [],
    },
  )
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  # A run that cannot be is refused before the first; one seed tells of all.
  for way, density, seed in [key for key in todo if key[2] == 0]:
    one = _config_of(config, density, seed)
    make_rule = lambda n, one=one, way=way: _rule(one, way, n)
    preparation.check(one, model, dataset, make_rule)
  done = {(p['way'], p['value'], p['seed']) for p in report['points']}
  for key in tqdm.tqdm(
    [key for key in todo if key not in done], unit='run', disable=None
  ):
    report['points'].append(measure(config, dataset, *key))
    result_store.save(workdir, report)
  artifacts.write_text(os.path.join(workdir, 'table.md'), table(report))
  return report


def measure(
  config: ml_collections.ConfigDict,
  dataset: input_pipeline.Dataset,
  way: str,
  density: float,
  seed: int,
) -> dict[str, Any]:
  """Trains one network, makes it small and times both.

  Args:
    config: What all runs share.
    dataset: Its validation split is reported if there is one, else its test
      split.
    way: A key of `WAYS`.
    density: The density to reach.
    seed: The seed.

  Returns:
    One entry of `results.json`.
  """
  config = _config_of(config, density, seed)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  run = train.fit(
    config,
    model,
    dataset.without_validation(),
    make_rule=lambda num_steps: _rule(config, way, num_steps),
  )
  train.check_finite(run, f'{_name(way, density)}, seed {seed}')
  split = dataset.validation if config.validation_size else dataset.test
  params, model_state = run.state.params, run.state.model_state
  masks = train.get_masks(config, run.state)
  images = evaluation.some_images(split, max(_BATCH_SIZES))

  def network(params, images):
    return model.apply({'params': params, **model_state}, images)

  small = scl_jax.compact(
    network, params, masks, images[:_EXAMPLES], drop_inputs=True
  )
  networks = {
    'dense': (network, compact.without_zeros(params)),
    'compact': (small.fn, small.params),
  }
  certificate = small.certificate
  return {
    'way': way,
    'value': density,
    'seed': seed,
    'findings': run.findings,
    'accuracy': train.accuracy(model, params, split, model_state),
    'density': float(scl_jax.density(masks)),
    'params_before': certificate.params_before,
    'params_after': certificate.params_after,
    'macs_before': certificate.macs_before // _EXAMPLES,
    'macs_after': certificate.macs_after // _EXAMPLES,
    'difference32': certificate.difference32,
    'shapes': [
      'x'.join(map(str, leaf.shape))
      for leaf in jax.tree.leaves(small.params)
      if leaf.ndim > 1
    ],
    'latency': {
      str(size): compact.latencies(networks, images[:size], _ROUNDS)
      for size in _BATCH_SIZES
    },
  }


def _check_ways(config: ml_collections.ConfigDict) -> None:
  """Refuses settings that every way would have, or none."""
  for field, default in _VARIED.items():
    if config.scl.get(field, default) != default:
      raise ValueError(
        f'config.scl.{field} is what the ways of this experiment vary, '
        f'{", ".join(WAYS)}; leave it at {default!r}, got '
        f'{config.scl[field]!r}.'
      )


def _config_of(
  config: ml_collections.ConfigDict, density: float, seed: int
) -> ml_collections.ConfigDict:
  config = config.copy_and_resolve_references()
  config.seed, config.target_density = seed, density
  return config


def _rule(
  config: ml_collections.ConfigDict, way: str, num_steps: int
) -> scl_jax.MaskRule | None:
  arguments = dict(WAYS[way])
  if arguments.get('granularity') == 'mixed':
    by_feature = _BY_FEATURE.get(config.model, _CONVOLUTIONS)
    arguments['granularity'] = {by_feature: 'feature', '.*': 'connection'}
  return rules.rule_of(config, num_steps, **arguments)


def table(report: Mapping[str, Any]) -> str:
  """Means over seeds, as Markdown."""
  groups: dict[tuple[float, str], list[Any]] = {}
  for point in report['points']:
    groups.setdefault((point['value'], point['way']), []).append(point)
  speed = ' | '.join(f'batch {size}' for size in _BATCH_SIZES)
  lines = [
    '| density | masks of | accuracy | features left | parameters left '
    f'| MACs | {speed} |',
    '|--:|---|--:|--:|--:|--:|' + '--:|' * len(_BATCH_SIZES),
  ]
  order = list(WAYS)
  for (density, way), points in sorted(
    groups.items(), key=lambda item: (-item[0][0], order.index(item[0][1]))
  ):
    accuracy = result_store.plus_minus(
      *result_store.mean_and_std([100 * point['accuracy'] for point in points])
    )
    left = 100 * _mean(p['params_after'] / p['params_before'] for p in points)
    macs = sum(p['macs_before'] for p in points) / max(
      1, sum(p['macs_after'] for p in points)
    )
    gains = [
      result_store.mean_and_std(
        [p['latency'][str(size)]['compact_speedup'] for p in points]
      )
      for size in _BATCH_SIZES
    ]
    features = '-'.join(
      f'{_mean(int(shape.split("x")[-1]) for shape in shapes):.0f}'
      for shapes in zip(*(p['shapes'] for p in points), strict=True)
    )
    lines.append(
      f'| {100 * density:g} % | {way} | {accuracy} % | '
      f'{features} | {left:.1f} % | ×{macs:.1f} | '
      + ' | '.join(f'×{result_store.plus_minus(*gain)}' for gain in gains)
      + ' |'
    )
  return '\n'.join(lines) + '\n'


def _mean(values: Iterable[float]) -> float:
  return float(np.mean(list(values)))


def main(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Trains, and returns the table and what was found."""
  report = experiment(config, workdir)
  found = findings.of_runs(
    report['points'], lambda point: _name(point['way'], point['value'])
  )
  return table(report) + findings.to_text(found)


def _name(way: str, density: float) -> str:
  return f'{way}, density {100 * density:g} %'


if __name__ == '__main__':
  command_line.run_experiment(main)
