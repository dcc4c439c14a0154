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
r"""Whole blocks and channels: the consensus of gates beside SCL and magnitudes.

    python -m experiments.consensus \
        --config=experiments/configs/digits_gated_vgg16_consensus.py \
        --workdir=experiments/results/digits_gated_vgg16_consensus

For each seed and each share in `config.densities`, with the same epochs,
initial weights and batches:

    dense               the network without gates, once a seed
    consensus           gates, see `experiments.gating`; the share is that of
                        `config.consensus.costs` which stays open
    scl                 SCL with one mask variable a filter
    gradual_magnitude   the filters of each layer with the largest norms

The last two keep the share of the filters, see `experiments.filters`. All are
compacted and measured without fine-tuning, on the test split, once a run;
nothing is tuned. Which MACs and parameters are left is measured, too, as equal
shares leave unequal networks. `results.json` is rewritten after each run, and
runs in it are not repeated.
"""

from collections.abc import Mapping, Sequence
import json
import os
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
from experiments import filters
from experiments import findings
from experiments import gating
from experiments import input_pipeline
from experiments import models
from experiments import preparation
from experiments import result_store
from experiments import rules
from experiments import train

METHODS = ('dense', 'consensus', 'scl', 'gradual_magnitude')

# Fields that differ between points, or do not change them.
_NOT_SETTINGS = (
  'method', 'target_density', 'consensus.target', 'points_per_epoch',
)  # fmt: skip
_BATCH_SIZE = 32  # of the latency


def consensus(
  config: ml_collections.ConfigDict, workdir: str
) -> dict[str, Any]:
  """Trains every point that `results.json` does not hold yet.

  Args:
    config: Of a model with gates, with `densities`, `methods` and `seeds`.
    workdir: Where `results.json` and `table.md` go.

  Returns:
    What is in `results.json`.

  Raises:
    ValueError: If there is nothing to do, a method is unknown, a share is bad,
      something is named twice, the model has no gates, the workdir holds the
      results of another config, or a run diverges.
  """
  methods = tuple(config.methods) or METHODS
  if not set(methods) <= set(METHODS):
    raise ValueError(
      f'config.methods must be among {", ".join(METHODS)}; got {methods}.'
    )
  config_checks.check_distinct('config.methods', methods)
  shares = config_checks.as_shares('config.densities', config.densities)
  config_checks.check_distinct('config.densities', shares)
  todo = [
    (method, share, seed)
    for seed in range(config.seeds)
    for method in methods
    for share in ((1.0,) if method == 'dense' else shares)
  ]
  if not todo:
    raise ValueError(
      'There is nothing to train: give --config.densities, such as '
      '(0.5, 0.35), and --config.seeds >= 1.'
    )
  report = result_store.load(
    workdir,
    config,
    module='experiments.consensus',
    ignore=_NOT_SETTINGS,
    empty={'points': []},
  )
  dataset = input_pipeline.from_config(config).without_validation()
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  gating.check_gated(config, model)
  # A run that cannot be is refused before the first; one seed tells of all.
  for method, share, seed in [key for key in todo if key[2] == 0]:
    one = _config_of(config, method, share, seed)
    make_rule = lambda n, one=one: _rule(one, model.without_gates(), n)
    preparation.check(one, model, dataset, make_rule)
  done = {(p['method'], p['share'], p['seed']) for p in report['points']}
  for key in tqdm.tqdm(
    [key for key in todo if key not in done], unit='run', disable=None
  ):
    report['points'].append(train_point(config, dataset, *key))
    result_store.save(workdir, report)
    tqdm.tqdm.write(json.dumps(report['points'][-1]))
  artifacts.write_text(os.path.join(workdir, 'table.md'), table(report))
  return report


def train_point(
  config: ml_collections.ConfigDict,
  dataset: input_pipeline.Dataset,
  method: str,
  share: float,
  seed: int,
) -> dict[str, Any]:
  """Trains one network, makes it small and measures it.

  Args:
    config: What all points share.
    dataset: The data set.
    method: One of `METHODS`.
    share: What to keep.
    seed: Decides initial weights and the order of the examples.

  Returns:
    One entry of `results.json`.
  """
  config = _config_of(config, method, share, seed)
  name = f'{_name(method, share)}, seed {seed}'
  gated = models.create_model(config.model, dataset.num_classes, config.dtype)
  full = gated.without_gates()
  if method == 'consensus':
    run = train.fit(config, gated, dataset)
    train.check_finite(run, name)
    static = gating.extract(gated, run.state, dataset, config.consensus)
    small, measured = static.small, static.report
    measured.pop('closed')
  else:
    make_rule = lambda num_steps: _rule(config, full, num_steps)
    run = train.fit(config, full, dataset, make_rule=make_rule)
    train.check_finite(run, name)
    variables = {'params': run.state.params, **run.state.model_state}
    small, measured = gating.small_network(full, variables, dataset, full)
  images = evaluation.some_images(dataset.test, _BATCH_SIZE)
  latencies = compact.latencies(
    {
      'dense': (full.apply, full.init(jax.random.key(0), images)),
      'static': (small.fn, small.params),
    },
    images,
    rounds=10,
  )
  return {
    'method': method,
    'share': share,
    'seed': seed,
    **measured,
    **latencies,
    'seconds': round(run.seconds, 1),
    'findings': run.findings + measured.get('findings', []),
  }


def _config_of(
  config: ml_collections.ConfigDict, method: str, share: float, seed: int
) -> ml_collections.ConfigDict:
  config = config.copy_and_resolve_references()
  config.method, config.seed = method, seed
  config.target_density = None if method in rules.WITHOUT_MASKS else share
  config.consensus.target = share
  return config


def _rule(config: ml_collections.ConfigDict, model: Any, num_steps: int) -> Any:
  """The rule of a method over the filters of a model; `None` for dense."""
  config = config.copy_and_resolve_references()
  if config.method == 'gradual_magnitude':
    with config.unlocked():
      config.gradual_magnitude = ml_collections.ConfigDict(
        {
          # Norms of different layers do not compare behind BatchNorm.
          'allocation': 'uniform',
          'update_every': max(1, num_steps // 40),
          **config.get('gradual_magnitude', {}),
        }
      )
  rule = rules.rule_of(config, num_steps)
  if rule is None:
    return None
  return filters.over_filters(rule, model.inner_filters())


def table(report: Mapping[str, Any]) -> str:
  """Means over seeds as Markdown.

  Args:
    report: What is in `results.json`.

  Returns:
    A table with a row for each method and share.
  """
  groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
  for point in report['points']:
    groups.setdefault((point['method'], point['share']), []).append(point)
  lines = [
    '| method | share | share reached | static accuracy | dynamic accuracy | '
    'disagreement | MACs | parameters | speed-up, batch 32 | s/run | seeds |',
    '|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|',
  ]
  order = lambda key: (METHODS.index(key[0]), -key[1])
  for method, share in sorted(groups, key=order):
    points = groups[method, share]
    mean = lambda field, points=points: float(
      np.mean([point[field] for point in points])
    )
    reached = dynamic = disagreement = ''
    if method == 'consensus':
      # Without the field, in older reports, shares are of MACs.
      shares = [p.get('open_share', p['open_macs']) for p in points]
      reached = f'{np.mean(shares):.3g}'
      dynamic = _accuracy(points, 'dynamic_test_accuracy')
      disagreement = f'{mean("disagreement"):.2g}'
    lines.append(
      f'| {method} | {share:g} | {reached} | '
      f'{_accuracy(points, "test_accuracy")} | {dynamic} | {disagreement} | '
      f'{100 * mean("macs") / mean("dense_macs"):.1f} % | '
      f'{100 * mean("params") / mean("dense_params"):.1f} % | '
      f'×{mean("static_speedup"):.2f} | {mean("seconds"):.0f} | '
      f'{len(points)} |'
    )
  return '\n'.join(lines) + '\n'


def _accuracy(points: Sequence[Mapping[str, Any]], field: str) -> str:
  found = result_store.mean_and_std([100 * p[field] for p in points])
  return f'{result_store.plus_minus(*found)} %'


def main(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Trains, and returns the table and what was found."""
  report = consensus(config, workdir)
  found = findings.of_runs(
    report['points'], lambda point: _name(point['method'], point['share'])
  )
  return table(report) + findings.to_text(found)


def _name(method: str, share: float) -> str:
  return f'{method}, share {share:g}'


if __name__ == '__main__':
  command_line.run_experiment(main)
