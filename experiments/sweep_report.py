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
"""The table and the plot of a sweep."""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import matplotlib.figure as mpl_figure
import matplotlib.ticker as mpl_ticker
import numpy as np

from experiments import artifacts
from experiments import contenders
from experiments import findings as findings_lib
from experiments import plots
from experiments import result_store


def write(workdir: str, report: Mapping[str, Any]) -> None:
  """Writes `table.md` and `front.png`."""
  rows = summarise(report['points'])
  artifacts.write_text(os.path.join(workdir, 'table.md'), table(rows))
  label = contenders.label_of(report['config']['method'])
  figure = plot(rows, label, report['split'])
  plots.save(os.path.join(workdir, 'front.png'), figure)


def is_dense(field: str, value: float) -> bool:
  """Whether points of this value of this field are the dense network."""
  return (field, value) == ('target_density', 1.0)


def summarise(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Mean and sample standard deviation over seeds, densest first."""
  groups: dict[Any, list[Mapping[str, Any]]] = {}
  for point in points:
    groups.setdefault((point['field'], point['value']), []).append(point)
  rows = []
  for (field, value), group in groups.items():
    accuracy, accuracy_std = result_store.mean_and_std(
      [100 * point['accuracy'] for point in group]
    )
    densities = 100 * np.array([point['density'] for point in group])
    rows.append(
      {
        'field': field,
        'value': value,
        'seeds': len(group),
        'accuracy': accuracy,
        'accuracy_std': accuracy_std,
        'density': densities.mean(),
        'largest_density': densities.max(),
        'live': np.mean([point['live'] for point in group]),
        'seconds': np.mean([point['seconds'] for point in group]),
      }
    )
  return sorted(rows, key=lambda row: -row['density'])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as Markdown."""
  lines = [
    '| asked for | density | live connections | accuracy | seeds | s/run |',
    '|---|--:|--:|--:|--:|--:|',
  ]
  for row in rows:
    accuracy = result_store.plus_minus(row['accuracy'], row['accuracy_std'])
    lines.append(
      f'| {_asked(row)} | {row["density"]:.3g} % | {row["live"]:,.0f} | '
      f'{accuracy} % | '
      f'{row["seeds"]} | {row["seconds"]:.0f} |'
    )
  return '\n'.join(lines) + '\n'


def findings(points: Sequence[Mapping[str, Any]]) -> list[str]:
  """What was found in the runs, each with the point that it is of."""
  return findings_lib.of_runs(points, _asked)


def settings(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The fields of a config that ask for these points."""
  values = lambda field: list(
    dict.fromkeys(p['value'] for p in points if p['field'] == field)
  )
  return {
    'densities': values('target_density'),
    'penalties': values('penalty'),
    'seeds': 1 + max(point['seed'] for point in points),
  }


def _asked(row: Mapping[str, Any]) -> str:
  """What was asked for, in words."""
  if is_dense(row['field'], row['value']):
    return 'dense'
  if row['field'] == 'target_density':
    return f'density {100 * row["value"]:g} %'
  return f'λ = {row["value"]:g}'


def plot(
  rows: Sequence[Mapping[str, Any]], label: str, split: str
) -> mpl_figure.Figure:
  """Accuracy over density, and the dense network as a line.

  A density of 0 has no place on a logarithmic axis, and is left out.

  Args:
    rows: From `summarise`.
    label: The name of the method.
    split: The name of the split that accuracies are of.

  Returns:
    A figure.
  """
  figure = mpl_figure.Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  dense, sparse = (
    [
      row
      for row in rows
      if is_dense(row['field'], row['value']) is kind and row['density'] > 0
    ]
    for kind in (True, False)
  )
  axes.errorbar(
      [row['density'] for row in sparse],
      [row['accuracy'] for row in sparse],
      [row['accuracy_std'] for row in sparse],
      color='#0b6e99', marker='o', capsize=3, label=label,
  )  # fmt: skip
  for row in dense:
    axes.axhline(row['accuracy'], color='#787774', ls='--', label='dense')
  axes.set(
    xscale='log', xlabel='live connections (%)', ylabel=f'{split} accuracy (%)'
  )
  axes.set_xticks(
    [row['density'] for row in sparse],
    [f'{row["density"]:.3g}' for row in sparse],
  )
  axes.xaxis.set_minor_locator(mpl_ticker.NullLocator())
  axes.grid(alpha=0.3)
  axes.legend()
  return figure
