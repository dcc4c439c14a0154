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
r"""NNrelief with rewinding: prune by activity, retrain from the start, repeat.

    python -m experiments.nnrelief \
        --config=experiments/configs/mnist_lenet300_nnrelief.py \
        --workdir=experiments/results/mnist_lenet300_nnrelief \
        --config.alphas='(0.9, 0.95)' --config.seeds=5

The dense network of a seed is trained for `config.epochs`. Then, as often as
`config.nnrelief.iterations` says, it is pruned by the activity on some training
examples, brought back to its initial weights and trained again under the masks,
for `config.epochs` with a fresh optimizer. Each training is one of
`experiments.train`, so the recipe is that of the other methods, not the paper's
(60 epochs with steps of the learning rate, weight decay 5e-4). All of them
count: `epochs` of a point is their sum so far.

As in `experiments.sweep`, with a validation split that is reported and the test
split not read. A point is never chosen by its accuracy: all iterations are in
the table. `results.json` is rewritten after each chain of iterations, and
chains in it are not trained again.
"""

import json
import os
from typing import Any

import jax
import ml_collections
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments import config_checks
from experiments import findings
from experiments import input_pipeline
from experiments import models
from experiments import nnrelief_report
from experiments import result_store
from experiments import rewinding
from experiments import train
import scl_jax
from scl_jax import checks
from scl_jax import tree as tree_lib

# Fields that differ between points, or do not change them.
_NOT_SETTINGS = ('alphas', 'conv_alphas', 'points_per_epoch')


def experiment(
  config: ml_collections.ConfigDict, workdir: str
) -> dict[str, Any]:
  """Runs every chain that `results.json` does not hold yet.

  Args:
    config: With `alphas`, `conv_alphas`, `seeds` and `nnrelief`.
    workdir: Where `results.json`, `table.md` and `front.png` go.

  Returns:
    What is in `results.json`.

  Raises:
    ValueError: If the config is impossible, or the workdir holds the results of
      another.
  """
  config_checks.require_fields(
    config, ('alphas', 'conv_alphas'), 'mnist_lenet300_nnrelief.py'
  )
  config = config.copy_and_resolve_references()
  shares = _shares(config)
  _check(config)
  report = result_store.load(
    workdir,
    config,
    module='experiments.nnrelief',
    ignore=_NOT_SETTINGS,
    empty={
      'split': 'validation' if config.validation_size else 'test',
      'points': [],
    },
  )
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  flow = None
  done = {(p['alpha'], p['conv_alpha'], p['seed']) for p in report['points']}
  for seed in tqdm.trange(config.seeds, unit='seed', disable=None):
    todo = [share for share in shares if (*share, seed) not in done]
    if not todo:
      continue
    if flow is None:  # before anything is trained
      flow = rewinding.trace(config, model, dataset)
    config.seed = seed
    dense = rewinding.train_dense(config, model, dataset)  # for all shares
    for alpha, conv_alpha in todo:
      stages = rewinding.chain(
        config, model, dataset, dense, flow, alpha, conv_alpha
      )
      seconds = 0.0
      points = []
      for stage in stages:
        seconds += stage.run.seconds
        point = measure(config, model, dataset, stage)
        point = {
          'alpha': alpha,
          'conv_alpha': conv_alpha,
          'seed': seed,
          **point,
          'seconds': round(seconds, 1),
        }
        points.append(point)
        tqdm.tqdm.write(json.dumps(point))
      report['points'] += points
      result_store.save(workdir, report)
  rows = nnrelief_report.summarise(report['points'])
  text = nnrelief_report.table(rows)
  artifacts.write_text(os.path.join(workdir, 'table.md'), text)
  figure = os.path.join(workdir, 'front.png')
  nnrelief_report.plot(figure, rows, report['split'])
  return report


def measure(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  stage: rewinding.Stage,
) -> dict[str, Any]:
  """What is reported of a stage.

  Density and live connections are of weights, as for every method; live
  parameters count biases too, as the paper does.
  """
  params = stage.run.state.params
  model_state = stage.run.state.model_state
  split = dataset.validation if config.validation_size else dataset.test
  masks = stage.masks
  kernels = jax.tree.map(
    lambda _, chosen, mask: mask if chosen else None,
    params,
    scl_jax.prunable(params),
    masks,
  )
  return {
    'iteration': stage.iteration,
    'epochs': (stage.iteration + 1) * config.epochs,
    'accuracy': train.accuracy(model, params, split, model_state),
    'density': float(scl_jax.density(kernels)),
    'live': _live(kernels),
    'live_parameters': _live(masks),
    'findings': stage.run.findings,
    'layers': {
      path: round(float(density), 6)
      for path, density in tree_lib.zip_leaves(scl_jax.layer_density(kernels))
    },
  }


def _live(masks: Any) -> int:
  return sum(int(n) for n in jax.tree.leaves(scl_jax.live_connections(masks)))


def _check(config: ml_collections.ConfigDict) -> None:
  """Before anything is read or trained."""
  config_checks.check_numbers(config)
  rewinding.check(config)
  checks.check_whole('config.seeds', config.seeds, 1)
  for name in config_checks.TARGETS:
    if config.get(name) is not None:
      raise ValueError(
        f'config.{name}={config[name]} does not go with NNrelief, whose '
        'density follows from config.alphas: leave it None.'
      )


def _shares(config: ml_collections.ConfigDict) -> list[tuple[float, float]]:
  """The pairs (α of dense layers, α of convolutions)."""
  alphas = config_checks.as_shares('config.alphas', config.alphas)
  conv_alphas = config_checks.as_shares(
    'config.conv_alphas', config.conv_alphas
  )
  conv_alphas = conv_alphas or alphas
  if not alphas or len(alphas) != len(conv_alphas):
    raise ValueError(
      'config.alphas must hold an α or more, and config.conv_alphas as many, '
      f'or none to take the same; got {alphas} and {config.conv_alphas}.'
    )
  shares = list(zip(alphas, conv_alphas, strict=True))
  config_checks.check_distinct(
    'config.alphas (with config.conv_alphas)', shares
  )
  return shares


def main(config: ml_collections.ConfigDict, workdir: str) -> str:
  """Trains, and returns the table and what was found."""
  points = experiment(config, workdir)['points']
  name = lambda point: (
    f'α = {point["alpha"]:g}, α of convolutions = {point["conv_alpha"]:g}, '
    f'iteration {point["iteration"]}'
  )
  table = nnrelief_report.table(nnrelief_report.summarise(points))
  return table + findings.to_text(findings.of_runs(points, name))


if __name__ == '__main__':
  command_line.run_experiment(main)
