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
"""What a workdir holds, as plain values that a page can show."""

from collections.abc import Mapping, Sequence
import json
import math
import os
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from experiments import artifacts
from experiments import checkpointing
from experiments import comparison_report
from experiments import contenders
from experiments import mask_history
from experiments import models
from experiments import rules
from experiments import sweep_report
import scl_jax
from scl_jax import tree as tree_lib


class Layer(NamedTuple):
  """A prunable leaf.

  Attributes:
    name: Its path, such as `'Dense_0/kernel'`.
    mask: Its final mask, bool.
    live_features: Features with a live connection; `None` where the name does
      not tell which axes are features.
    features: All features, or `None`.
  """

  name: str
  mask: np.ndarray
  live_features: int | None
  features: int | None

  @property
  def live(self) -> int:
    """The number of live connections."""
    return int(self.mask.sum())

  @property
  def density(self) -> float:
    """The share of live connections."""
    return self.live / max(self.mask.size, 1)


class Run(NamedTuple):
  """A finished run of `experiments.main`.

  Attributes:
    config: Its config.
    result: What is in `result.json`.
    history: The points of `metrics.jsonl`.
    dense_history: The same of the dense reference; empty without one.
    origin: Command, versions and devices, of `run.json`; empty for runs that
      are older than that file.
    freeze_step: The step from which on masks are fixed; `None` for a method
      without masks.
    table: The table of layers, as Markdown.
    layers: The prunable leaves.
    mask_bits: The history of masks, see `experiments.mask_history`.
    certificate: The compaction's certificate, as Markdown, or `None`.
    compaction: What is in `compact/result.json`, or `None`.
  """

  config: dict[str, Any]
  result: dict[str, Any]
  history: list[dict[str, float]]
  dense_history: list[dict[str, float]]
  origin: dict[str, Any]
  freeze_step: int | None
  table: str
  layers: list[Layer]
  mask_bits: dict[int, list[np.ndarray]]
  certificate: str | None
  compaction: dict[str, Any] | None


class Front(NamedTuple):
  """The runs of `experiments.sweep` or `experiments.compare`.

  Attributes:
    config: What their configs share, and what asks for all of them.
    origin: Commands, version of JAX, device and machine.
    split: The split that accuracies are of.
    findings: What was found in training, with the point that it is of.
    rows: One for each method and density: `method`, `asked`, `density` and
      `accuracy` in percent, `accuracy_std` (`None` of one seed), `seeds`.
    table: All that was measured, as Markdown.
  """

  config: dict[str, Any]
  origin: dict[str, Any]
  split: str
  findings: list[str]
  rows: list[dict[str, Any]]
  table: str


def read(workdir: str) -> Run | Front:
  """Reads the workdir of a run, a sweep or a comparison.

  Args:
    workdir: The folder.

  Returns:
    What is there.

  Raises:
    FileNotFoundError: If there is none of them, or it is not finished.
    ValueError: If `results.json` is that of another experiment.
  """
  if os.path.exists(os.path.join(workdir, 'result.json')):
    return _read_run(workdir)
  if os.path.exists(os.path.join(workdir, 'results.json')):
    return _read_front(workdir)
  raise FileNotFoundError(
    f'There is neither result.json nor results.json in {workdir}: give the '
    '--workdir of a finished run of experiments.main, experiments.sweep or '
    'experiments.compare.'
  )


def _read_run(workdir: str) -> Run:
  config = _json(
    workdir, 'config.json', ('model', 'dataset', 'method', 'epochs', 'seed')
  )
  history = _lines(workdir, 'metrics.jsonl')
  layers = _layers(_masks(workdir), models.feature_axes(config['model']))
  freeze_step = None
  if config['method'] in rules.FREEZING and history:
    freeze_step = rules.freeze_step(
      ml_collections.ConfigDict(config), int(history[-1]['step'])
    )
  certificate = os.path.join('compact', 'certificate.txt')
  has_certificate = os.path.exists(os.path.join(workdir, certificate))
  return Run(
    config=config,
    result=_json(
      workdir, 'result.json', ('test_accuracy', 'density', 'seconds')
    ),
    history=history,
    dense_history=_lines(workdir, os.path.join('dense', 'metrics.jsonl')),
    origin=_json_if_there(workdir, 'run.json') or {},
    freeze_step=freeze_step,
    table=_text(workdir, 'table.md'),
    layers=layers,
    mask_bits=mask_history.read(workdir, [x.mask.shape for x in layers]),
    certificate=_text(workdir, certificate) if has_certificate else None,
    compaction=_json_if_there(workdir, os.path.join('compact', 'result.json')),
  )


def _read_front(workdir: str) -> Front:
  report = _json(workdir, 'results.json')
  if 'commands' in report:  # of which older reports have one
    report['command'] = '\n'.join(report['commands'])
  points = report.get('points') or [{}]
  config, findings = report.get('config', {}), []
  if 'field' in points[0]:
    summary = sweep_report.summarise(points)
    label = contenders.label_of(config['method'])
    rows = [_sweep_row(row, label) for row in summary]
    table = sweep_report.table(summary)
    config = {**config, **sweep_report.settings(points)}
    findings = sweep_report.findings(points)
  elif 'asked' in points[0]:
    summary = comparison_report.summarise(report)
    rows = [
      {'method': contenders.get(method).label, 'asked': asked, **row}
      for (method, asked), row in summary.items()
    ]
    table = comparison_report.tables(report)
    findings = comparison_report.findings(points)
    plan = {**config.get('compare', {}), **comparison_report.settings(points)}
    config = {**config, 'compare': plan}
  else:
    raise ValueError(
      f'{os.path.join(workdir, "results.json")} is neither of '
      'experiments.sweep nor of experiments.compare, or has no run yet.'
    )
  return Front(
    config=config,
    origin={
      name: report[name]
      for name in ('command', 'jax', 'device', 'machine')
      if name in report
    },
    split=report.get('split', 'test'),
    findings=findings,
    rows=[_without_nan(row) for row in rows],
    table=table,
  )


def _sweep_row(row: Mapping[str, Any], label: str) -> dict[str, Any]:
  by_price = row['field'] == 'penalty'
  if by_price:
    label += ', by price'
  elif sweep_report.is_dense(row['field'], row['value']):
    label = 'dense'
  return {
    'method': label,
    'asked': None if by_price else row['value'],
    **{
      name: float(row[name])
      for name in ('density', 'accuracy', 'accuracy_std', 'live', 'seeds')
    },
  }


def _without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
  """JSON has no NaN."""
  is_nan = lambda value: isinstance(value, float) and math.isnan(value)
  return {k: None if is_nan(value) else value for k, value in row.items()}


def _masks(workdir: str) -> Any:
  """The masks of a run, without its model and without its data."""
  path = os.path.join(os.path.abspath(workdir), 'checkpoint')
  if not os.path.isdir(path):
    raise FileNotFoundError(f'There is no checkpoint in {path}.')
  with ocp.PyTreeCheckpointer() as checkpointer, checkpointing.reading(path):
    stored = checkpointer.metadata(path).item_metadata.tree['masks']
    like = {
      'masks': jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        stored,
        is_leaf=lambda node: hasattr(node, 'shape'),
      )
    }
    return checkpointer.restore(
      path,
      args=ocp.args.PyTreeRestore(
        item=like,
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like
        ),
        partial_restore=True,
      ),
    )['masks']


def _layers(
  masks: Any, feature_axes: scl_jax.features.FeatureAxes
) -> list[Layer]:
  resolve = scl_jax.features.resolve_feature_axes(feature_axes)
  layers = []
  for path, mask in tree_lib.zip_leaves(masks):
    mask = np.asarray(mask) != 0
    try:
      axes = resolve(path, mask)
    except ValueError:  # the name does not tell
      layers.append(Layer(path, mask, None, None))
      continue
    inputs = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    alive = mask.any(axis=inputs)
    layers.append(Layer(path, mask, int(alive.sum()), alive.size))
  return layers


def _text(workdir: str, name: str) -> str:
  with open(os.path.join(workdir, name), encoding='utf-8') as file:
    return file.read()


def _json(workdir: str, name: str, needs: Sequence[str] = ()) -> dict[str, Any]:
  return artifacts.read_json(os.path.join(workdir, name), needs)


def _json_if_there(workdir: str, name: str) -> dict[str, Any] | None:
  is_there = os.path.exists(os.path.join(workdir, name))
  return _json(workdir, name) if is_there else None


def _lines(workdir: str, name: str) -> list[dict[str, float]]:
  """Points, without what was not finite."""
  if not os.path.exists(os.path.join(workdir, name)):
    return []
  try:
    points = [json.loads(line) for line in _text(workdir, name).splitlines()]
  except ValueError as error:
    raise ValueError(
      f'{os.path.join(workdir, name)} holds a line that is no JSON, as if it '
      f'were cut off or edited: remove the line. ({error})'
    ) from error
  if not all(isinstance(p, dict) and 'step' in p for p in points):
    raise ValueError(
      f'{os.path.join(workdir, name)} holds a line that is no point of a run, '
      'as if it were edited: remove the line.'
    )
  return [
    {k: value for k, value in point.items() if value is not None}
    for point in points
  ]
