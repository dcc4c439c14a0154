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
"""Table and plot of `experiments.nnrelief`."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure as mpl_figure
import numpy as np

from experiments import plots
from experiments import result_store


def summarise(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Mean and sample standard deviation over seeds, for each iteration.

  The dense networks are one row, whatever α.
  """
  groups: dict[Any, list[Mapping[str, Any]]] = {}
  for point in points:
    key = (point['alpha'], point['conv_alpha'], point['iteration'])
    if not point['iteration']:
      key = (None, None, 0)
      if any(p['seed'] == point['seed'] for p in groups.get(key, [])):
        continue
    groups.setdefault(key, []).append(point)
  rows = []
  for (alpha, conv_alpha, iteration), group in groups.items():
    mean = {
      name: float(np.mean([point[name] for point in group]))
      for name in ('density', 'live', 'live_parameters', 'epochs', 'seconds')
    }
    accuracy, accuracy_std = result_store.mean_and_std(
      [100 * point['accuracy'] for point in group]
    )
    rows.append(
      {
        'alpha': alpha,
        'conv_alpha': conv_alpha,
        'iteration': iteration,
        'seeds': len(group),
        'accuracy': accuracy,
        'accuracy_std': accuracy_std,
        **mean,
      }
    )
  return sorted(
    rows,
    key=lambda row: (
      -(row['alpha'] or 2),
      -(row['conv_alpha'] or 2),
      row['iteration'],
    ),
  )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as Markdown."""
  lines = [
    '| α | α of convolutions | iteration | epochs | density | '
    'live connections | live parameters | accuracy | seeds | s/run |',
    '|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|',
  ]
  for row in rows:
    alphas = (
      f'{row["alpha"]:g} | {row["conv_alpha"]:g}'
      if row['iteration']
      else 'dense | '
    )
    accuracy = result_store.plus_minus(row['accuracy'], row['accuracy_std'])
    lines.append(
      f'| {alphas} | {row["iteration"]} | {row["epochs"]:.0f} | '
      f'{100 * row["density"]:.3g} % | {row["live"]:,.0f} | '
      f'{row["live_parameters"]:,.0f} | '
      f'{accuracy} % | '
      f'{row["seeds"]} | {row["seconds"]:.0f} |'
    )
  return '\n'.join(lines) + '\n'


def plot(path: str, rows: Sequence[Mapping[str, Any]], split: str) -> None:
  """Accuracy over live connections: a line for each α, a mark an iteration.

  Args:
    path: The PNG file to write.
    rows: From `summarise`.
    split: The name of the split that accuracies are of.
  """
  figure = mpl_figure.Figure(figsize=(6, 4), layout='constrained')
  axes = figure.subplots()
  for row in rows:
    if not row['iteration']:
      axes.axhline(row['accuracy'], color='#787774', ls='--', label='dense')
  shares = {(r['alpha'], r['conv_alpha']) for r in rows if r['iteration']}
  for alpha, conv_alpha in sorted(shares):
    line = [
      r for r in rows if (r['alpha'], r['conv_alpha']) == (alpha, conv_alpha)
    ]
    axes.errorbar(
      [100 * row['density'] for row in line],
      [row['accuracy'] for row in line],
      [row['accuracy_std'] for row in line],
      marker='o',
      capsize=3,
      label=f'α = {alpha:g}'
      + (f', {conv_alpha:g}' if conv_alpha != alpha else ''),
    )
  axes.set(
    xscale='log', xlabel='live connections (%)', ylabel=f'{split} accuracy (%)'
  )
  axes.grid(alpha=0.3)
  axes.legend()
  plots.save(path, figure)
