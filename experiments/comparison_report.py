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
"""Tables and the plot of a comparison."""

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

# A density further from the one asked for than this is marked.
_TOLERANCE = 0.05


def write(workdir: str, report: Mapping[str, Any]) -> None:
  """Writes `table.md` and `front.png`."""
  artifacts.write_text(os.path.join(workdir, 'table.md'), tables(report))
  _plot(os.path.join(workdir, 'front.png'), report)


def summarise(report: Mapping[str, Any]) -> dict[tuple[str, float], Any]:
  """Means over seeds, and the sample standard deviation of the accuracy.

  Args:
    report: What is in `results.json`.

  Returns:
    From (method, density asked for) to a dict of numbers, accuracies and
    densities in percent.
  """
  groups: dict[tuple[str, float], list[Any]] = {}
  for point in report['points']:
    groups.setdefault((point['method'], point['asked']), []).append(point)
  rows = {}
  for key, points in groups.items():
    mean = lambda field, points=points: float(
      np.mean([point[field] for point in points])
    )
    accuracy, accuracy_std = result_store.mean_and_std(
      [100 * point['accuracy'] for point in points]
    )
    rows[key] = {
      'seeds': len(points),
      'accuracy': accuracy,
      'accuracy_std': accuracy_std,
      'density': 100 * mean('density'),
      **{
        field: mean(field)
        for field in ('compression', 'speedup', 'training_cost', 'seconds')
      },
    }
  return rows


def settings(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The fields of `config.compare` of which `results.json` holds more runs."""
  return {
    'methods': list(dict.fromkeys(point['method'] for point in points)),
    'seeds': 1 + max(point['seed'] for point in points),
  }


def findings(points: Sequence[Mapping[str, Any]]) -> list[str]:
  """What was found in the final runs, each with the run that it is of."""
  return findings_lib.of_runs(
    points,
    lambda point: (
      f'{contenders.get(point["method"]).label} at {100 * point["asked"]:g} %'
    ),
  )


def tables(report: Mapping[str, Any]) -> str:
  """Accuracies, and what else was measured, as Markdown."""
  rows = summarise(report)
  methods = list(dict.fromkeys(method for method, _ in rows))
  asked = sorted({density for _, density in rows}, reverse=True)
  best = {
    density: max(
      rows[m, density]['accuracy'] for m in methods if (m, density) in rows
    )
    for density in asked
  }

  def cell(method, density):
    row = rows.get((method, density))
    if row is None:
      return ''
    text = result_store.plus_minus(row['accuracy'], row['accuracy_std'])
    if row['accuracy'] == best[density]:
      text = f'**{text}**'
    if abs(row['density'] / (100 * density) - 1) > _TOLERANCE:
      text += f' (at {row["density"]:.2g} %)'
    return text

  head = ' | '.join(f'{100 * density:g} %' for density in asked)
  lines = [f'| method | {head} |', '|---|' + '--:|' * len(asked)]
  lines += [
    f'| {contenders.CONTENDERS[method].label} | '
    + ' | '.join(cell(method, density) for density in asked)
    + ' |'
    for method in methods
  ]
  lines += [
    '',
    '| method | asked | reached | compression ratio | theoretical speed-up | '
    'training cost | s/run | seeds |',
    '|---|--:|--:|--:|--:|--:|--:|--:|',
  ]
  lines += [
    f'| {contenders.CONTENDERS[method].label} | {100 * density:g} % | '
    f'{row["density"]:.3g} % | {row["compression"]:.1f} | '
    f'{row["speedup"]:.1f} | {row["training_cost"]:.2f} | '
    f'{row["seconds"]:.0f} | {row["seeds"]} |'
    for (method, density), row in rows.items()
  ]
  return '\n'.join(lines) + '\n'


def _plot(path: str, report: Mapping[str, Any]) -> None:
  rows = summarise(report)
  figure = mpl_figure.Figure(figsize=(7, 4.5), layout='constrained')
  axes = figure.subplots()
  for index, method in enumerate(dict.fromkeys(m for m, _ in rows)):
    # A density of 0 has no place on a logarithmic axis.
    mine = [
      row
      for (name, _), row in rows.items()
      if name == method and row['density'] > 0
    ]
    mine.sort(key=lambda row: row['density'])
    axes.errorbar(
      [row['density'] for row in mine],
      [row['accuracy'] for row in mine],
      [row['accuracy_std'] for row in mine],
      label=contenders.CONTENDERS[method].label,
      color=f'C{index}' if index < 10 else 'black',
      marker='osv^D<>Xp*h'[index % 11],
      markersize=4,
      capsize=2,
      linewidth=2.5 if method == 'scl' else 1,
      zorder=3 if method == 'scl' else 2,
    )
  top = max(row['accuracy'] for row in rows.values())
  axes.set(
    xscale='log',
    xlabel='live connections (%)',
    ylabel='test accuracy (%)',
    # What fails altogether would flatten all the others.
    ylim=(max(0, top - 12), top + 0.5),
  )
  ticks = sorted({100 * density for _, density in rows})
  axes.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
  axes.xaxis.set_minor_locator(mpl_ticker.NullLocator())
  axes.grid(alpha=0.3)
  axes.legend(fontsize='small')
  plots.save(path, figure)
