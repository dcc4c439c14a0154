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
"""Rules of reductions, pooling and cumulative sums."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import rule as rule_lib

Fact = facts_lib.Fact
Keep = rule_lib.Keep
Labels = labels_lib.Labels
Site = rule_lib.Site
Ties = labels_lib.Ties

_REDUCERS: Mapping[str, Callable[..., np.ndarray]] = {
  'reduce_and': np.bitwise_and.reduce,
  'reduce_max': np.maximum.reduce,
  'reduce_min': np.minimum.reduce,
  'reduce_or': np.bitwise_or.reduce,
  'reduce_prod': np.multiply.reduce,
  'reduce_sum': np.add.reduce,
}


def _axes(site: Site) -> tuple[int, ...]:
  return tuple(site.params['axes'])


def _tie(site: Site, ties: Ties) -> list[Labels]:
  """Of the features that are reduced, those that add 0 to a sum may go."""
  (labels,), axes = site.in_labels, _axes(site)
  if site.node.name != 'reduce_sum':
    for axis in axes:
      ties.pin(labels[axis])
  rest = tuple(ids for axis, ids in enumerate(labels) if axis not in axes)
  return [rest] * len(site.outputs)


def _know(site: Site, facts: Sequence[Fact]) -> list[Fact]:
  (fact,), axes, name = facts, _axes(site), site.node.name
  if name not in _REDUCERS:  # argmax
    return rule_lib.know_nothing(site, facts)
  known = np.logical_and.reduce(fact.known, axis=axes)
  if not known.any():
    return rule_lib.know_nothing(site, facts)
  value = _REDUCERS[name](fact.value, axis=axes).astype(fact.value.dtype)
  (labels,), (aval,) = site.in_labels, site.inputs
  for axis in axes:
    if labels[axis] is None and name in ('reduce_sum', 'reduce_prod'):
      size = aval.shape[axis]
      if name == 'reduce_prod' or not isinstance(size, int):
        known = known & (value == 0)
      else:
        value = (value * size).astype(value.dtype)
  return [facts_lib.project(Fact(value, known), site.out_labels[0])]


def _need(
  site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  del facts
  wanted = np.expand_dims(np.logical_or.reduce(needs), _axes(site))
  return [facts_lib.fit(wanted, site.in_labels[0])]


def _spill(
  site: Site, facts: Sequence[Fact], dropped: np.ndarray
) -> list[rule_lib.Spill]:
  """What the dropped features would have added to a sum."""
  if site.node.name != 'reduce_sum':
    return []
  (fact,), (labels,), axes = facts, site.in_labels, _axes(site)
  gone = np.zeros(fact.known.shape, bool)
  is_exact = True
  for axis in axes:
    ids = labels[axis]
    if ids is None:
      is_exact = False
    else:
      shape = [-1 if a == axis else 1 for a in range(len(labels))]
      gone = gone | dropped[ids].reshape(shape)
  if not gone.any():
    return []
  guilty = gone & fact.known & ~fact.zero
  if is_exact:
    missing = np.where(guilty, fact.value, 0).sum(axes)
  else:
    missing = np.logical_or.reduce(guilty, axis=axes)

  def blame(entries: np.ndarray) -> np.ndarray:
    which = guilty & np.expand_dims(entries, axes)
    found = [np.zeros(0, int)]
    for axis in axes:
      ids = labels[axis]
      if ids is not None:
        others = tuple(a for a in range(len(labels)) if a != axis)
        found.append(ids[which.any(others)])
    ids = np.concatenate(found)
    return ids[dropped[ids]]

  return [rule_lib.Spill(missing, is_exact, blame)]


def _window(site: Site) -> list[bool]:
  """Which axes a window leaves alone."""
  p = site.params
  columns = zip(
    p['window_dimensions'],
    p['window_strides'],
    p['padding'],
    p['base_dilation'],
    p['window_dilation'],
    strict=True,
  )
  return [
    window == stride == base == dilation == 1 and tuple(pad) == (0, 0)
    for window, stride, pad, base, dilation in columns
  ]


def _tie_window(site: Site, ties: Ties) -> list[Labels]:
  (labels,) = site.in_labels
  result: list[labels_lib.Label] = []
  for ids, is_alone in zip(labels, _window(site), strict=True):
    if not is_alone:
      ties.pin(ids)
    result.append(ids if is_alone else None)
  return [tuple(result)]


def _know_window(site: Site, facts: Sequence[Fact]) -> list[Fact]:
  p, (labels,) = site.params, site.out_labels
  value, known = facts_lib.project(facts[0], labels)
  pads, windows = p['padding'], p['window_dimensions']
  is_dilated = any(n != 1 for n in (*p['base_dilation'], *p['window_dilation']))
  if site.node.name == 'reduce_window_sum':
    value = (value * np.prod(windows)).astype(value.dtype)
    if is_dilated or any(any(pad) for pad in pads):
      known = known & (value == 0)
  elif is_dilated or any(
    max(pad) >= n for pad, n in zip(pads, windows, strict=True)
  ):  # a window may hold padding alone
    known = np.zeros_like(known)
  return [facts_lib.project(Fact(value, known), labels)]


def _need_same(
  site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  del facts
  return [facts_lib.fit(needs[0], labels) for labels in site.in_labels]


def _build_window(site: Site, keep: Keep, values: Sequence[Any]):
  (aval,), (labels,) = site.outputs, site.out_labels
  shape = keep.shape(aval, labels)
  if 0 in shape:
    return [jnp.zeros(shape, aval.dtype)]
  return rule_lib.bind(site, keep, values)


def _tie_cumulative(site: Site, ties: Ties) -> list[Labels]:
  (labels,) = site.in_labels
  ties.pin(labels[site.params['axis']])
  return [labels]


def _need_cumulative(
  site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  del facts
  axis = site.params['axis']
  wanted = np.logical_or.reduce(needs[0], axis, keepdims=True)
  return [facts_lib.fit(wanted, site.in_labels[0])]


_CUMULATIVE = rule_lib.Rule(
  _tie_cumulative, rule_lib.know_nothing, _need_cumulative
)
_WINDOW = rule_lib.Rule(_tie_window, _know_window, _need_same, _build_window)
_REDUCTION = rule_lib.Rule(_tie, _know, _need, spill=_spill)

RULES = {
  **dict.fromkeys((*_REDUCERS, 'argmax', 'argmin'), _REDUCTION),
  **dict.fromkeys(
    ('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp'), _CUMULATIVE
  ),
  **dict.fromkeys(
    ('reduce_window_max', 'reduce_window_min', 'reduce_window_sum'), _WINDOW
  ),
}
