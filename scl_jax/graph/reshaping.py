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
"""How features go through a reshape.

A reshape falls into segments: a few axes that become a few others, such as
(7, 7, 64) → 3136. In each segment one axis on either side carries the features
and is cut in whole blocks: dropping channel 5 of 64 drops each 64th entry of
the flattened axis. The other axes of the segment stay whole.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import numpy as np

from scl_jax.graph import labels as labels_lib
from scl_jax.graph import rule as rule_lib

Label = labels_lib.Label
Site = rule_lib.Site


class _Segment(NamedTuple):
  """Axes of the operand that become axes of the result."""

  before: list[int]
  after: list[int]


def tie(site: Site, ties: labels_lib.Ties) -> list[labels_lib.Labels]:
  """Passes the ids of each segment's carrier on."""
  old, new = site.inputs[0].shape, site.outputs[0].shape
  labels = site.in_labels[0]
  result: list[Label] = [None] * len(new)
  if site.params.get('dimensions') is not None:
    return rule_lib.tie_nothing(site, ties)
  in_segments = set()
  for segment in _segments(old, new):
    in_segments.update(segment.before)
    ids = [labels[axis] for axis in segment.before]
    sizes = [old[axis] for axis in segment.before]
    shape = [new[axis] for axis in segment.after]
    if len(ids) == len(shape) == 1:
      result[segment.after[0]] = ids[0]
    elif not _is_cuttable(sizes + shape):
      for other in ids:
        ties.pin(other)
    elif any(other is not None for other in ids):
      parts = _split(_merge(ids, sizes, ties).reshape(shape), ties)
      for axis, part in zip(segment.after, parts, strict=True):
        result[axis] = part
  for axis, ids in enumerate(labels):
    if axis not in in_segments:
      ties.pin(ids)
  return [tuple(result)]


def move(site: Site, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Reshapes an array that has one entry for each labelled index."""
  (array,) = arrays
  old, new = site.inputs[0].shape, site.outputs[0].shape
  labels = site.in_labels[0]
  expanded, shape = list(array.shape), [1] * len(new)
  for segment in _segments(old, new):
    sizes = [old[axis] for axis in segment.before]
    if all(labels[axis] is None for axis in segment.before):
      continue
    if _is_cuttable(sizes + [new[axis] for axis in segment.after]):
      for axis in segment.before:
        expanded[axis] = old[axis]
      for axis in segment.after:
        shape[axis] = new[axis]
    elif segment.after:
      shape[segment.after[0]] = math.prod(expanded[a] for a in segment.before)
  return [np.broadcast_to(array, expanded).reshape(shape)]


def _segments(old: Sequence[Any], new: Sequence[Any]) -> list[_Segment]:
  """Cuts a reshape into segments; axes of size 1 belong to none."""
  before = [axis for axis, size in enumerate(old) if not _is(size, 1)]
  after = [axis for axis, size in enumerate(new) if not _is(size, 1)]
  head: list[_Segment] = []
  tail: list[_Segment] = []
  while before and after and old[before[0]] == new[after[0]]:
    head.append(_Segment([before.pop(0)], [after.pop(0)]))
  while before and after and old[before[-1]] == new[after[-1]]:
    tail.append(_Segment([before.pop()], [after.pop()]))
  sizes = [old[axis] for axis in before] + [new[axis] for axis in after]
  if not _is_cuttable(sizes):
    # Behind a symbolic batch that is joined with other axes.
    while segment := _last(old, new, before, after):
      tail.append(segment)
      del before[-len(segment.before) :], after[-len(segment.after) :]
    rest = [_Segment(before, after)] if before or after else []
    return [*head, *rest, *tail]
  while before or after:
    segment = _Segment([], [])
    product = quotient = 1
    while product != quotient or not segment.before:
      if (product <= quotient and before) or not after:
        segment.before.append(before.pop(0))
        product *= old[segment.before[-1]]
      else:
        segment.after.append(after.pop(0))
        quotient *= new[segment.after[-1]]
    head.append(segment)
  return [*head, *tail]


def _last(
  old: Sequence[Any],
  new: Sequence[Any],
  before: Sequence[int],
  after: Sequence[int],
) -> _Segment | None:
  """The shortest last segment, if there is one before any symbolic size."""
  first, second = len(before), len(after)
  product = quotient = 1
  while product != quotient or first == len(before):
    is_short = product <= quotient
    axes, sizes, at = (before, old, first) if is_short else (after, new, second)
    if not at or not _is_cuttable([sizes[axes[at - 1]]]):
      return None
    if is_short:
      first -= 1
      product *= old[before[first]]
    else:
      second -= 1
      quotient *= new[after[second]]
  return _Segment([*before[first:]], [*after[second:]])


def _is_cuttable(sizes: Sequence[Any]) -> bool:
  """Neither symbolic nor empty."""
  return all(isinstance(size, int) and size > 0 for size in sizes)


def _is(size: Any, number: int) -> bool:
  return isinstance(size, int) and size == number


def _merge(
  ids: Sequence[Label], sizes: Sequence[int], ties: labels_lib.Ties
) -> np.ndarray:
  """The ids of the flattened axes: the carrier's, repeated."""
  labelled = [axis for axis, label in enumerate(ids) if label is not None]
  carrier = _choose(labelled, ties)
  for axis in labelled:
    if axis != carrier:
      ties.pin(ids[axis])
  chosen = ids[carrier]
  assert chosen is not None
  shape = [n if axis == carrier else 1 for axis, n in enumerate(sizes)]
  return np.broadcast_to(chosen.reshape(shape), sizes)


def _split(ids: np.ndarray, ties: labels_lib.Ties) -> list[Label]:
  """Labels for the axes of an array of ids; the carrier ties what it must."""
  axes = range(ids.ndim)
  others = {axis: tuple(a for a in axes if a != axis) for axis in axes}
  agree = [
    axis for axis in axes if (ids == ids.min(others[axis], keepdims=True)).all()
  ]
  carrier = agree[0] if agree else _choose(list(axes), ties)
  along = np.moveaxis(ids, carrier, 0).reshape(ids.shape[carrier], -1)
  for column in along.T[1:] if not agree else ():
    ties.tie(along[:, 0], column)
  result: list[Label] = []
  for axis in axes:
    if axis == carrier:
      result.append(along[:, 0])
    else:
      whole = ties.fresh(ids.shape[axis])
      ties.pin(whole)
      result.append(whole)
  return result


def _choose(axes: Sequence[int], ties: labels_lib.Ties) -> int:
  ties.had_choice |= len(axes) > 1
  return axes[0 if ties.prefer_first else -1]
