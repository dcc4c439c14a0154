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
"""Vega-Lite specifications of the charts.

They name data and encodings alone. Width comes from the page, colours and fonts
from `page.js`, which gives them to all charts at once, for light and for dark.
Vega-Lite was chosen as its whole runtime is 0.9 MB in a page; Plotly's is 4.8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import result_store

Spec = dict[str, Any]

_MOST_IN_LEGEND = 12
_PERCENT = '.1~%'
_STEP = {'field': 'step', 'type': 'quantitative', 'title': 'step'}


def over_steps(
  series: Mapping[str, Sequence[Mapping[str, float]]],
  field: str,
  title: str,
  description: str,
  *,
  is_share: bool = False,
  logarithmic: bool = False,
  freeze_step: int | None = None,
) -> Spec | None:
  """A quantity over the steps of training, as lines.

  Args:
    series: From names to points; points without the field are left out.
    field: The quantity.
    title: Of its axis.
    description: What a screen reader says.
    is_share: Whether to show it in percent.
    logarithmic: Whether its axis is logarithmic.
    freeze_step: Where to draw the line after which masks are fixed.

  Returns:
    A specification, or `None` if there is no point.
  """
  rows = [
    {'step': point['step'], 'value': point[field], 'series': name}
    for name, points in series.items()
    for point in points
    if field in point and not (logarithmic and point[field] <= 0)
  ]
  if not rows:
    return None
  y: Spec = {
    'field': 'value',
    'type': 'quantitative',
    'title': title,
    'scale': {'type': 'log'} if logarithmic else {'zero': False},
  }
  y['axis'] = {'tickCount': 5, **({'format': _PERCENT} if is_share else {})}
  color: Spec = {
    'field': 'series',
    'title': None,
    'sort': None,
    'scale': {'domain': list(series)},
    # Of many, the tooltip tells which is which.
    'legend': {'orient': 'top'} if 1 < len(series) <= _MOST_IN_LEGEND else None,
  }
  tooltip = [_STEP, {**_value('value', title, is_share)}]
  if len(series) > 1:
    tooltip.insert(0, {'field': 'series', 'title': 'network'})
  layers: list[Spec] = [
    {
      'data': {'values': rows},
      'mark': {'type': 'line', 'point': {'size': 24}, 'clip': True},
      'encoding': {'x': _STEP, 'y': y, 'color': color, 'tooltip': tooltip},
    }
  ]
  if freeze_step is not None:
    layers.append(
      {
        'data': {'values': [{'step': freeze_step}]},
        'mark': {'type': 'rule', 'strokeDash': [2, 3], 'style': 'note'},
        'encoding': {
          'x': _STEP,
          'tooltip': [{**_STEP, 'title': 'masks are fixed from step'}],
        },
      }
    )
  return _chart(description, layer=layers)


def bars(
  rows: Sequence[Mapping[str, Any]],
  title: str,
  description: str,
) -> Spec | None:
  """A share of each layer, as horizontal bars with their numbers.

  Args:
    rows: Dicts with `layer`, `share` and `label`, the text beside the bar.
    title: Of the axis.
    description: What a screen reader says.

  Returns:
    A specification, or `None` if there is no row.
  """
  if not rows:
    return None
  layer = {'field': 'layer', 'type': 'nominal', 'sort': None, 'title': None}
  largest = max([row['share'] for row in rows] + [1e-6])
  share = {
    'field': 'share',
    'type': 'quantitative',
    'title': title,
    'axis': {
      'labelExpr': f"datum.value > 1 ? '' : format(datum.value, '{_PERCENT}')",
      'tickCount': 4,
    },
    # Room for the text beside the longest bar.
    'scale': {'domain': [0, 1.7 * largest], 'nice': False},
  }
  label = {'field': 'label', 'type': 'nominal'}
  return _chart(
    description,
    height=22 * len(rows),
    data={'values': list(rows)},
    encoding={
      'y': {**layer, 'axis': {'labelLimit': 150}},
      'x': share,
      'tooltip': [
        {**layer, 'title': 'layer'},
        {**_value('share', title, True)},
        {**label, 'title': 'live of all'},
      ],
    },
    layer=[
      {'mark': {'type': 'bar', 'cornerRadiusEnd': 2}},
      {
        'mark': {'type': 'text', 'align': 'left', 'dx': 5, 'style': 'note'},
        'encoding': {'text': label},
      },
    ],
  )


def births_and_deaths(
  changes: Sequence[Mapping[str, int]], description: str
) -> Spec | None:
  """Connections that came, upwards, and that went, downwards.

  Args:
    changes: What `experiments.mask_history.changes` gives.
    description: What a screen reader says.

  Returns:
    A specification, or `None` if there is no row.
  """
  if not changes:
    return None
  rows = [
    {'step': row['step'], 'kind': kind, 'number': row[kind], 'signed': signed}
    for row in changes
    for kind, signed in (
      ('births', row['births']),
      ('deaths', -row['deaths']),
    )
  ]
  most = max(row['number'] for row in rows)
  decades = [10**power for power in range(1, len(str(most)) + 1)]
  ticks = [-decade for decade in reversed(decades)] + [0, *decades]
  return _chart(
    description,
    data={'values': rows},
    mark={'type': 'bar'},
    encoding={
      'x': {
        **_STEP,
        'type': 'ordinal',
        'axis': {'labelOverlap': True, 'labelAngle': 0, 'labelPadding': 4},
      },
      'y': {
        'field': 'signed',
        'type': 'quantitative',
        'title': 'connections',
        # Nearly all births and deaths of a run may lie in one point.
        'scale': {'type': 'symlog'},
        'axis': {
          'values': ticks,
          'labelExpr': "format(abs(datum.value), '~s')",
          'labelOverlap': True,
        },
        'stack': None,
      },
      'color': {
        'field': 'kind',
        'title': None,
        'scale': {'domain': ['births', 'deaths']},
        'legend': {'orient': 'top'},
      },
      'tooltip': [
        {**_STEP, 'title': 'up to step'},
        {'field': 'kind'},
        {'field': 'number', 'type': 'quantitative', 'format': ','},
      ],
    },
  )


def front(
  rows: Sequence[Mapping[str, Any]], split: str, description: str
) -> Spec | None:
  """Accuracy against density, with error bars; the dense network as a line.

  Args:
    rows: See `experiments.reporting.reading.Front`; those of density 0 have no
      place on a logarithmic axis, and are left out.
    split: The split that accuracies are of.
    description: What a screen reader says.

  Returns:
    A specification, or `None` if there is no row to draw.
  """
  sparse = [
    _with_ends(row)
    for row in rows
    if row['method'] != 'dense' and row['density'] > 0
  ]
  dense = [_with_ends(row) for row in rows if row['method'] == 'dense']
  if not sparse + dense:
    return None
  # What fails altogether would flatten all the others.
  top = max(row['high'] for row in sparse + dense)
  low = max(min(row['low'] for row in sparse + dense), top - 12)
  methods = list(dict.fromkeys(row['method'] for row in sparse))
  x = {
    'field': 'density',
    'type': 'quantitative',
    'title': 'live connections (%)',
    'scale': {'type': 'log', 'nice': False, 'padding': 12},
    'axis': {
      'values': sorted({float(f'{row["density"]:.3g}') for row in sparse}),
      'format': '~g',
      'labelOverlap': True,
    },
  }
  y = {
    'field': 'accuracy',
    'type': 'quantitative',
    'title': f'{split} accuracy (%)',
    'scale': {'zero': False, 'domain': [low, top], 'nice': True},
  }
  color = {
    'field': 'method',
    'title': None,
    'sort': None,
    'scale': {'domain': methods},
    'legend': {'orient': 'bottom'} if len(methods) > 1 else None,
  }
  tooltip = [
    {'field': 'method'},
    {**_value('density', 'live connections (%)', False)},
    {'field': 'shown', 'title': 'accuracy'},
    {'field': 'seeds', 'type': 'quantitative'},
  ]
  band = {
    'y': {**y, 'field': 'low'},
    'y2': {'field': 'high'},
  }
  layers: list[Spec] = [
    {
      'data': {'values': dense},
      'mark': {'type': 'rect', 'opacity': 0.12, 'style': 'note'},
      'encoding': band,
    },
    {
      'data': {'values': dense},
      'mark': {'type': 'rule', 'strokeDash': [5, 4], 'style': 'note'},
      'encoding': {'y': y, 'tooltip': tooltip},
    },
    {
      'data': {'values': sparse},
      'mark': {'type': 'rule', 'clip': True, 'strokeWidth': 1.5},
      'encoding': {'x': x, 'color': color, **band},
    },
    {
      'data': {'values': sparse},
      'mark': {'type': 'line', 'clip': True, 'point': {'size': 45}},
      'encoding': {'x': x, 'y': y, 'color': color, 'tooltip': tooltip},
    },
  ]
  return _chart(description, height=320, layer=layers if dense else layers[2:])


def heat_map(counts: np.ndarray, title: str, description: str) -> Spec:
  """A picture of counts, with a legend, and each count under the pointer.

  Args:
    counts: Numbers, [rows, columns].
    title: Of the legend.
    description: What a screen reader says.

  Returns:
    A specification.
  """
  rows = [
    {'row': int(row), 'column': int(column), 'count': int(count)}
    for (row, column), count in np.ndenumerate(counts)
  ]
  place = lambda name: {
    'field': name,
    'type': 'ordinal',
    'axis': None,
    'scale': {'paddingInner': 0},
  }
  cell = max(4, min(28, 300 // max(counts.shape)))
  return _chart(
    description,
    width={'step': cell},
    height={'step': cell},
    data={'values': rows},
    mark='rect',
    encoding={
      'x': place('column'),
      'y': place('row'),
      'color': {
        'field': 'count',
        'type': 'quantitative',
        'title': title,
        'scale': {'domainMin': 0},
        'legend': {'orient': 'bottom', 'gradientLength': 180},
      },
      'tooltip': [
        {'field': name, 'type': 'quantitative'}
        for name in ('row', 'column', 'count')
      ],
    },
  )


def _chart(description: str, **parts: Any) -> Spec:
  return {
    'description': description,
    'width': 'container',
    'height': 220,
    **parts,
  }


def _value(field: str, title: str, is_share: bool) -> Spec:
  number = '.2~%' if is_share else '.4~g'
  return {
    'field': field,
    'type': 'quantitative',
    'title': title,
    'format': number,
  }


def _with_ends(row: Mapping[str, Any]) -> dict[str, Any]:
  std = row['accuracy_std'] or 0.0
  shown = result_store.plus_minus(row['accuracy'], row['accuracy_std'])
  return {
    **row,
    'low': row['accuracy'] - std,
    'high': row['accuracy'] + std,
    'shown': f'{shown} %',
  }
