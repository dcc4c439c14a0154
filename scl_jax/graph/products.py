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
"""Rules of products: `dot_general` and `conv_general_dilated`.

Both are read as a sum of products over features, written as for `einsum`, with
an entry for each labelled index. A convolution is a product of its channels
with the sums of its taps, exactly so where nothing is padded.
"""

from collections.abc import Sequence
import functools
import string
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import rule as rule_lib

Fact = facts_lib.Fact
Keep = rule_lib.Keep
Site = rule_lib.Site


class _Factor(NamedTuple):
  """One side of a product.

  Attributes:
    axes: A letter for each axis.
    value: The entries, 0 where unknown.
    known: Which are known.
    zero: Which are known to be 0; of taps that are summed, all of them.
  """

  axes: str
  value: np.ndarray
  known: np.ndarray
  zero: np.ndarray

  @property
  def constant(self) -> np.ndarray:
    """Which are known, but not 0."""
    return self.known & ~self.zero


class _Product(NamedTuple):
  """out = Σ left right.

  Attributes:
    left: One factor.
    right: The other.
    axes: A letter for each axis of the result.
    terms: A letter for each axis that is summed over, and its ids.
    scale: How many unlabelled terms each term stands for; 0 if not known.
    is_exact: Whether all positions of the result get the same.
  """

  left: _Factor
  right: _Factor
  axes: str
  terms: list[tuple[str, np.ndarray]]
  scale: int
  is_exact: bool

  @property
  def is_constant(self) -> bool:
    """Whether the result is known where all factors are."""
    return self.is_exact and self.scale > 0

  def count(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How many terms make `left and right` true."""
    axes = f'{self.left.axes},{self.right.axes}->{self.axes}'
    return _einsum(axes, left, right)

  def sum(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The sum over these entries."""
    axes = f'{self.left.axes},{self.right.axes}->{self.axes}'
    values = [
      np.where(mask, factor.value, 0).astype(
        np.result_type(factor.value, np.float64)
      )
      for factor, mask in ((self.left, left), (self.right, right))
    ]
    return np.einsum(axes, *values) * self.scale


def _know(site: Site, p: _Product) -> list[Fact]:
  (aval,), (labels,) = site.outputs, site.out_labels
  uncertain = p.count(~p.left.zero, ~p.right.zero)
  if p.is_constant:
    uncertain = uncertain - p.count(p.left.constant, p.right.constant)
  known = uncertain == 0
  if not known.any():
    return [facts_lib.unknown(aval, labels)]
  value = p.sum(p.left.known, p.right.known) * (1 if p.is_constant else 0)
  return [facts_lib.project(Fact(value.astype(aval.dtype), known), labels)]


def _need(site: Site, p: _Product, wanted: np.ndarray) -> list[np.ndarray]:
  """A factor matters unless the other is 0; of two zeros, both do."""
  shape = np.broadcast_shapes(
    wanted.shape, p.count(p.left.zero, p.right.zero).shape
  )
  wanted = np.broadcast_to(wanted, shape)
  result = []
  for side, other, labels in (
    (p.left, p.right, site.in_labels[0]),
    (p.right, p.left, site.in_labels[1]),
  ):
    axes = f'{p.axes},{other.axes}->{side.axes}'
    moves = _einsum(axes, wanted, ~other.zero) > 0
    rests = _einsum(axes, wanted, np.ones_like(other.zero)) > 0
    result.append(facts_lib.fit(moves | (side.zero & rests), labels))
  return result


def _spill(p: _Product, dropped: np.ndarray) -> list[rule_lib.Spill]:
  gone = np.zeros(p.left.known.shape, bool)
  for letter, ids in p.terms:
    gone = gone | _along(dropped[ids], letter, p.left.axes)
  # Whatever is not 0 in one of these is missing. What is not known may be a
  # constant all the same: another one at each position.
  pairs = [
    (p.left.constant & gone, p.right.constant, p.is_constant),
    (p.left.constant & gone, ~p.right.known, False),
    (~p.left.known & gone, ~p.right.zero, False),
  ]
  spills = []
  for left, right, is_exact in pairs:
    if left.any() and right.any():
      missing = p.sum(left, right) if is_exact else p.count(left, right)
      blame = functools.partial(_blame, p, dropped, left, right)
      spills.append(rule_lib.Spill(missing, is_exact, blame))
  return spills


def _blame(
  p: _Product,
  dropped: np.ndarray,
  left: np.ndarray,
  right: np.ndarray,
  entries: np.ndarray,
) -> np.ndarray:
  """The dropped ids whose terms `left right` these entries lack."""
  axes = f'{p.axes},{p.right.axes}->{p.left.axes}'
  entries = np.broadcast_to(entries, p.count(left, right).shape)
  guilty = (_einsum(axes, entries, right) > 0) & left
  found = []
  for letter, ids in p.terms:
    others = tuple(i for i, a in enumerate(p.left.axes) if a != letter)
    found.append(ids[np.broadcast_to(guilty.any(others), ids.shape)])
  found = np.concatenate(found)
  return found[dropped[found]]


def _along(values: np.ndarray, letter: str, axes: str) -> np.ndarray:
  shape = [-1 if a == letter else 1 for a in axes]
  return values.reshape(shape)


def _einsum(axes: str, *masks: np.ndarray) -> np.ndarray:
  return np.einsum(axes, *(mask.astype(np.float32) for mask in masks))


# dot_general


def _dot_axes(site: Site) -> tuple[str, str, str, str]:
  """Letters for both operands, the result and what is summed over."""
  (left, right), (left_batch, right_batch) = site.params['dimension_numbers']
  letters = iter(string.ascii_letters)
  names = [[''] * len(aval.shape) for aval in site.inputs]
  pairs = [*zip(left_batch, right_batch, strict=True)]
  for a, b in [*pairs, *zip(left, right, strict=True)]:
    names[0][a] = names[1][b] = next(letters)
  free = [[n or next(letters) for n in side] for side in names]
  batch = [names[0][a] for a in left_batch]
  summed = [names[0][a] for a in left]
  out = batch + [
    name
    for side, full in zip(names, free, strict=True)
    for old, name in zip(side, full, strict=True)
    if not old
  ]
  return ''.join(free[0]), ''.join(free[1]), ''.join(out), ''.join(summed)


def _tie_dot(site: Site, ties: labels_lib.Ties) -> list[labels_lib.Labels]:
  left, right, out, _ = _dot_axes(site)
  found: dict[str, labels_lib.Label] = {}
  for axes, labels in zip((left, right), site.in_labels, strict=True):
    for letter, ids in zip(axes, labels, strict=True):
      is_new = letter not in found
      found[letter] = ids if is_new else ties.tie(found[letter], ids)
  return [tuple(found[letter] for letter in out)]


def _dot(site: Site, facts: Sequence[Fact]) -> _Product:
  left, right, out, summed = _dot_axes(site)
  sides = [
    _Factor(axes, fact.value, fact.known, fact.zero)
    for axes, fact in zip((left, right), facts, strict=True)
  ]
  terms, scale = [], 1
  for letter in summed:
    a, b = left.index(letter), right.index(letter)
    labels = [site.in_labels[0][a], site.in_labels[1][b]]
    labels = [ids for ids in labels if ids is not None]
    terms += [(letter, ids) for ids in labels]
    if not labels:
      size = site.inputs[0].shape[a]
      scale *= size if isinstance(size, int) else 0
  return _Product(sides[0], sides[1], out, terms, scale, is_exact=True)


# conv_general_dilated


def _tie_conv(site: Site, ties: labels_lib.Ties) -> list[labels_lib.Labels]:
  numbers = site.params['dimension_numbers']
  (data, kernel), groups = site.in_labels, site.params['feature_group_count']
  for axis, ids in enumerate(data):
    if axis != numbers.lhs_spec[1]:
      ties.pin(ids)
  channels = data[numbers.lhs_spec[1]]
  filters, depth, *taps = (kernel[axis] for axis in numbers.rhs_spec)
  for ids in taps:
    ties.pin(ids)
  if groups == 1:
    ties.tie(channels, depth)
  else:
    ties.pin(depth)
    _tie_groups(channels, filters, groups, ties)
  out: list[labels_lib.Label] = [None] * len(data)
  out[numbers.out_spec[1]] = filters
  return [tuple(out)]


def _tie_groups(
  channels: labels_lib.Label,
  filters: labels_lib.Label,
  groups: int,
  ties: labels_lib.Ties,
) -> None:
  """A group goes as a whole, with its inputs and outputs."""
  if channels is None or filters is None:
    ties.pin(channels)
    ties.pin(filters)
    return
  parts = [
    column
    for ids in (channels, filters)
    for column in ids.reshape(groups, -1).T
  ]
  for part in parts[1:]:
    ties.tie(parts[0], part)


def _conv(site: Site, facts: Sequence[Fact]) -> _Product:
  p, (data, kernel) = site.params, facts
  numbers, groups = p['dimension_numbers'], p['feature_group_count']
  labels: list[labels_lib.Label] = [None] * len(site.in_labels[0])
  channels = site.in_labels[0][numbers.lhs_spec[1]]
  labels[numbers.lhs_spec[1]] = channels
  data = facts_lib.project(data, tuple(labels))
  depth = site.inputs[1].shape[numbers.rhs_spec[1]]
  count = depth * groups

  taps = [np.broadcast_to(x, site.inputs[1].shape) for x in kernel]
  taps = [np.transpose(x, numbers.rhs_spec) for x in taps]  # filters first
  value, known = (x.reshape(*x.shape[:2], -1) for x in taps)
  rows = [
    value.sum(2, dtype=np.result_type(value, np.float64)),
    known.all(2),
    (known & (value == 0)).all(2),
  ]
  if groups > 1:
    fills = (0, True, True)
    rows = [_spread(x, groups, f) for x, f in zip(rows, fills, strict=True)]
  is_exact = not any(low or high for low, high in p['padding']) and all(
    n == 1 for n in p['lhs_dilation']
  )
  terms = [] if channels is None else [('k', channels)]
  depth_ids = site.in_labels[1][numbers.rhs_spec[1]]
  if depth_ids is not None and groups == 1:
    terms.append(('k', depth_ids))
  spatial = ''.join(string.ascii_uppercase[i] for i in range(len(labels) - 2))
  out = [''] * len(labels)
  for letter, axis in zip('b' + 'n' + spatial, numbers.out_spec, strict=True):
    out[axis] = letter
  ones = [1] * (len(labels) - 1)
  left = _Factor(
    'b' + spatial + 'k',
    *(
      np.broadcast_to(x.ravel(), (count,)).reshape(*ones, count)
      for x in (data.value, data.known, data.zero)
    ),
  )
  right = _Factor('nk', *rows)
  return _Product(left, right, ''.join(out), terms, 1, is_exact)


def _spread(rows: np.ndarray, groups: int, fill: float) -> np.ndarray:
  """[filters, depth] to [filters, channels]; other groups get `fill`."""
  filters, depth = rows.shape
  result = np.full((groups, filters // groups, groups, depth), fill, rows.dtype)
  index = np.arange(groups)
  result[index, :, index] = rows.reshape(groups, -1, depth)
  return result.reshape(filters, groups * depth)


def _need_conv(
  site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  numbers, (data, kernel) = site.params['dimension_numbers'], site.in_labels
  p = _conv(site, facts)
  moves = _einsum(f'{p.axes},{p.right.axes}->k', needs[0], ~p.right.zero) > 0
  rests = p.left.zero.ravel() & needs[0].any()
  filters = needs[0].ravel()  # no other axis of the result is labelled

  def spread(wanted, rank, axis):
    return wanted.reshape([-1 if a == axis else 1 for a in range(rank)])

  channels = spread(moves | rests, len(data), numbers.lhs_spec[1])
  filters = spread(filters, len(kernel), numbers.rhs_spec[0])
  return [facts_lib.fit(channels, data), facts_lib.fit(filters, kernel)]


def _build_conv(site: Site, keep: Keep, values: Sequence[Any]):
  (aval,), (labels,) = site.outputs, site.out_labels
  shape = keep.shape(aval, labels)
  if 0 in shape or any(0 in value.shape for value in values):
    return [jnp.zeros(shape, aval.dtype)]
  params = dict(site.params)
  axis = params['dimension_numbers'].lhs_spec[1]
  if params['feature_group_count'] > 1:
    whole, left = site.inputs[0].shape[axis], values[0].shape[axis]
    params['feature_group_count'] = (
      params['feature_group_count'] * left // whole
    )
  return site.node.bind(*values, **params)


RULES = {
  'dot_general': rule_lib.Rule(
    _tie_dot,
    lambda site, facts: _know(site, _dot(site, facts)),
    lambda site, facts, needs: _need(site, _dot(site, facts), needs[0]),
    spill=lambda site, facts, dropped: _spill(_dot(site, facts), dropped),
  ),
  'conv_general_dilated': rule_lib.Rule(
    _tie_conv,
    lambda site, facts: _know(site, _conv(site, facts)),
    _need_conv,
    _build_conv,
    lambda site, facts, dropped: _spill(_conv(site, facts), dropped),
  ),
}
