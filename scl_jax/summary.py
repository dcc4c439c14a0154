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
"""A text table of what is left of each layer."""

from collections.abc import Sequence
import math

import jax.numpy as jnp
import numpy as np

from scl_jax import features
from scl_jax import metrics
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def summary(
  params: PyTree,
  masks: PyTree,
  *,
  costs: PyTree | None = None,
  storage: bool = False,
  feature_axes: features.FeatureAxes = None,
) -> str:
  """Connections, live connections, density and dead features of each layer.

  Args:
    params: The parameters.
    masks: As `scl_jax.get_masks` gives them; `None` where not prunable.
    costs: MACs of a connection, from `scl_jax.costs`; adds the columns of dense
      and live MACs, `?` where it has no such leaf, and of their ratio, the
      speed-up of a machine that skips every zero at no cost.
    storage: Whether to add the bytes of the weights when stored dense; as a
      bitmask and the live values; and as CSR, with a 4-byte column for each
      live value and a 4-byte pointer for each row (all axes but the last).
    feature_axes: Which axes are features, see `scl_jax.features`. Where the
      name leaves them open, dead features are shown as `?`, and the total is
      of the others.

  Returns:
    A Markdown table, with a row for each prunable leaf and a row of totals.

  Raises:
    ValueError: If the trees do not fit, or costs are no numbers.

  Example:
    >>> params = {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)}
    >>> print(summary(params, {'kernel': jnp.eye(2), 'bias': None}))
    | layer  | shape | connections | live | density | dead features |
    |--------|-------|------------:|-----:|--------:|--------------:|
    | kernel |   2x2 |           4 |    2 | 50.00 % |             0 |
    | total  |       |           4 |    2 | 50.00 % |             0 |
  """
  columns = ['layer', 'shape', 'connections', 'live', 'density']
  columns += ['dead features']
  if costs is not None:
    columns += ['MACs', 'live MACs', 'speed-up']
  if storage:
    columns += ['bytes', 'bitmask', 'CSR']

  lines: list[list[str]] = []
  totals = [0] * (len(columns) - 3)
  for path, leaf, mask, cost in tree_lib.zip_leaves(params, masks, costs):
    if mask is None:
      continue
    mask = jnp.asarray(mask)
    if jnp.shape(mask) != jnp.shape(leaf):
      raise ValueError(
        f'masks must have the shapes of params: {path!r} is '
        f'{jnp.shape(mask)} in masks and {jnp.shape(leaf)} in params.'
      )
    size = mask.size
    live = int(metrics.live_connections(mask))
    dead = _dead_features(path, mask, feature_axes)
    numbers: list[int | None] = [size, live, dead]
    if cost is not None:
      if jnp.ndim(cost) or not np.isfinite(cost):
        raise ValueError(
          f'costs must hold the MACs of a connection, but {path!r} is {cost!r}.'
        )
      numbers += [round(size * cost), round(live * cost), None]
    elif costs is not None:
      numbers += [None, None, None]
    if storage:
      numbers += _bytes(jnp.shape(leaf), live, jnp.result_type(leaf).itemsize)
    for index, number in enumerate(numbers):
      totals[index] += number or 0
    shape = 'x'.join(str(d) for d in jnp.shape(leaf))
    lines.append(_cells(path, shape, numbers, costs is not None))
  if not lines:
    raise ValueError('masks holds no array, so there is nothing to show.')
  lines.append(_cells('total', '', totals, costs is not None))
  return _table(columns, lines)


def _dead_features(path, mask, feature_axes) -> int | None:
  try:
    axes = features.resolve_feature_axes(feature_axes)(path, mask)
  except ValueError:
    if feature_axes is not None:
      raise
    return None
  return int(metrics.dead_features(mask, axes))


def _bytes(shape: tuple[int, ...], live: int, itemsize: int) -> list[int]:
  """Dense, as a bitmask with values, and as CSR."""
  size = math.prod(shape)
  rows = math.prod(shape[:-1])
  return [
    size * itemsize,
    -(-size // 8) + live * itemsize,
    live * (itemsize + 4) + 4 * (rows + 1),
  ]


def _cells(
  name: str, shape: str, numbers: Sequence[int | None], has_costs: bool
) -> list[str]:
  size, live, *others = numbers
  assert size is not None
  assert live is not None
  density = f'{live / size:.2%}'.replace('%', ' %') if size else '-'
  cells = [name, shape, f'{size:,}', f'{live:,}', density]
  cells += ['?' if n is None else f'{n:,}' for n in others]
  if has_costs and others[1] is not None:
    dense, alive = others[1], others[2]
    cells[8] = f'{dense / alive:.2f}' if dense and alive else '-'
  return cells


def _table(columns: list[str], rows: list[list[str]]) -> str:
  widths = [
    max(len(row[index]) for row in [columns, *rows])
    for index in range(len(columns))
  ]

  def line(cells):
    first, *others = zip(cells, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(c.rjust(n) for c, n in others)]
    return '| ' + ' | '.join(padded) + ' |'

  heads = [c.ljust(n) for c, n in zip(columns, widths, strict=True)]
  rule = ['-' * (n + 1) + ':' for n in widths]
  rule[:2] = ['-' * (n + 2) for n in widths[:2]]
  return '\n'.join(
    [
      '| ' + ' | '.join(heads) + ' |',
      '|' + '|'.join(rule) + '|',
      *(line(row) for row in rows),
    ]
  )
