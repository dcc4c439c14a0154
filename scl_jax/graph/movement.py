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
"""Rules of primitives that only move entries about.

Each says how it moves arrays that have one entry for each labelled index;
facts, needs and corrections all follow from that.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

from jax import lax
import jax.numpy as jnp
import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import reshaping
from scl_jax.graph import rule as rule_lib

Fact = facts_lib.Fact
Keep = rule_lib.Keep
Site = rule_lib.Site
Ties = labels_lib.Ties
Arrays = Sequence[np.ndarray]


def _rule(
  tie: Callable[[Site, Ties], Sequence[labels_lib.Labels]],
  move: Callable[[Site, Arrays], Arrays],
  build: Callable[[Site, Keep, Sequence[Any]], Sequence[Any]] = rule_lib.bind,
) -> rule_lib.Rule:
  """A rule from what happens to the entries."""

  def sources(site: Site) -> tuple[Arrays, int]:
    """Where each entry of the results comes from, of all operands in a row."""
    numbered, count = [], 0
    for labels in site.in_labels:
      shape = labels_lib.sizes(labels)
      size = math.prod(shape)
      numbered.append(np.arange(count, count + size).reshape(shape))
      count += size
    return move(site, numbered), count

  def know(site: Site, facts: Sequence[Fact]) -> list[Fact]:
    moved, _ = sources(site)
    values = np.concatenate([f.value.ravel() for f in facts])
    known = np.concatenate([f.known.ravel() for f in facts])
    return [
      facts_lib.project(Fact(values[index], known[index]), labels)
      for index, labels in zip(moved, site.out_labels, strict=True)
    ]

  def need(
    site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
  ) -> list[np.ndarray]:
    del facts
    moved, count = sources(site)
    flat = np.zeros(count, bool)
    for index, wanted in zip(moved, needs, strict=True):
      shape = np.broadcast_shapes(index.shape, wanted.shape)
      index = np.broadcast_to(index, shape)
      flat[index[np.broadcast_to(wanted, shape)]] = True
    shapes = [labels_lib.sizes(labels) for labels in site.in_labels]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [
      part.reshape(shape)
      for part, shape in zip(np.split(flat, ends), shapes, strict=True)
    ]

  return rule_lib.Rule(tie, know, need, build, move=move)


def _tie_broadcast(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  (out,), (labels, *_) = site.outputs, site.in_labels
  result: list[labels_lib.Label] = [
    ties.fresh(size) if isinstance(size, int) and size > 1 else None
    for size in out.shape
  ]
  for axis, target in enumerate(site.params['broadcast_dimensions']):
    if site.inputs[0].shape[axis] == out.shape[target]:
      result[target] = labels[axis]
    else:
      ties.pin(labels[axis])
  for other in site.in_labels[1:]:  # symbolic sizes
    for ids in other:
      ties.pin(ids)
  return [tuple(result)]


def _move_broadcast(site: Site, arrays: Arrays) -> Arrays:
  array = arrays[0]
  shape = [1] * len(site.outputs[0].shape)
  for axis, target in enumerate(site.params['broadcast_dimensions']):
    shape[target] = array.shape[axis]
  full = np.broadcast_shapes(shape, labels_lib.sizes(site.out_labels[0]))
  return [np.broadcast_to(array.reshape(shape), full)]


def _build_broadcast(site: Site, keep: Keep, values: Sequence[Any]):
  shape = keep.shape(site.outputs[0], site.out_labels[0])
  dimensions = site.params['broadcast_dimensions']
  return [lax.broadcast_in_dim(values[0], shape, dimensions)]


def _tie_transpose(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  del ties
  (labels,) = site.in_labels
  return [tuple(labels[axis] for axis in site.params['permutation'])]


def _move_transpose(site: Site, arrays: Arrays) -> Arrays:
  return [np.transpose(arrays[0], site.params['permutation'])]


def _tie_squeeze(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  (labels,), removed = site.in_labels, site.params['dimensions']
  for axis in removed:
    ties.pin(labels[axis])
  return [tuple(ids for a, ids in enumerate(labels) if a not in removed)]


def _move_squeeze(site: Site, arrays: Arrays) -> Arrays:
  return [np.squeeze(arrays[0], tuple(site.params['dimensions']))]


def _tie_rev(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  del ties
  (labels,), reversed_axes = site.in_labels, site.params['dimensions']
  return [
    tuple(
      ids if ids is None or axis not in reversed_axes else ids[::-1]
      for axis, ids in enumerate(labels)
    )
  ]


def _move_rev(site: Site, arrays: Arrays) -> Arrays:
  return [np.flip(arrays[0], tuple(site.params['dimensions']))]


def _slices(site: Site) -> list[slice]:
  p = site.params
  starts, limits = p['start_indices'], p['limit_indices']
  strides = p['strides'] or (1,) * len(starts)
  return [slice(*s) for s in zip(starts, limits, strides, strict=True)]


def _tie_slice(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  del ties
  (labels,) = site.in_labels
  return [
    tuple(
      None if ids is None else ids[part]
      for ids, part in zip(labels, _slices(site), strict=True)
    )
  ]


def _move_slice(site: Site, arrays: Arrays) -> Arrays:
  return [
    arrays[0][
      tuple(
        slice(None) if ids is None else part
        for ids, part in zip(site.in_labels[0], _slices(site), strict=True)
      )
    ]
  ]


def _build_slice(site: Site, keep: Keep, values: Sequence[Any]):
  (value,) = values
  p = site.params
  starts, limits = list(p['start_indices']), list(p['limit_indices'])
  strides = list(p['strides'] or (1,) * len(starts))
  for axis, ids in enumerate(site.in_labels[0]):
    mask = keep.of(ids)
    if mask is None:
      continue
    chosen = np.zeros(len(mask), bool)
    chosen[_slices(site)[axis]] = True
    rows = np.flatnonzero(chosen[mask])
    starts[axis], limits[axis], strides[axis] = 0, len(rows), 1
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
      starts[axis], limits[axis] = int(rows[0]), int(rows[-1]) + 1
    else:
      value = jnp.take(value, rows, axis, mode='clip')
  return [lax.slice(value, starts, limits, strides)]


def _tie_pad(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  result: list[labels_lib.Label] = []
  for ids, (low, high, inner) in zip(
    site.in_labels[0], site.params['padding_config'], strict=True
  ):
    if ids is not None and (inner or low < 0 or high < 0):
      ties.pin(ids)
      ids = None
    if ids is not None and (low or high):
      ids = np.concatenate([ties.fresh(low), ids, ties.fresh(high)])
    result.append(ids)
  return [tuple(result)]


def _move_pad(site: Site, arrays: Arrays) -> Arrays:
  array, fill = arrays
  for axis, (ids, (low, high, inner)) in enumerate(
    zip(site.out_labels[0], site.params['padding_config'], strict=True)
  ):
    if ids is None:  # all that may stand there, once each
      low, high = int(bool(low or high or inner)), 0
    sizes = [
      tuple(n if a == axis else s for a, s in enumerate(array.shape))
      for n in (low, high)
    ]
    parts = [np.broadcast_to(fill, size) for size in sizes]
    array = np.concatenate([parts[0], array, parts[1]], axis)
  return [array]


def _build_pad(site: Site, keep: Keep, values: Sequence[Any]):
  config = list(site.params['padding_config'])
  for axis, ids in enumerate(site.out_labels[0]):
    mask = keep.of(ids)
    if mask is not None:
      low, high, _ = config[axis]
      kept_low, kept_high = mask[:low].sum(), mask[len(mask) - high :].sum()
      config[axis] = (int(kept_low), int(kept_high), 0)
  return [lax.pad(values[0], values[1], config)]


def _tie_concatenate(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  along = site.params['dimension']
  result: list[labels_lib.Label] = []
  for axis, column in enumerate(zip(*site.in_labels, strict=True)):
    if axis != along:
      result.append(ties.tie_all(column))
      continue
    shapes = [aval.shape[axis] for aval in site.inputs]
    if all(ids is None for ids in column) or not all(
      isinstance(size, int) for size in shapes
    ):
      for ids in column:
        ties.pin(ids)
      result.append(None)
      continue
    parts = []
    for ids, size in zip(column, shapes, strict=True):
      if ids is None:  # stays whole beside the others
        ids = ties.fresh(size)
        ties.pin(ids)
      parts.append(ids)
    result.append(np.concatenate(parts))
  return [tuple(result)]


def _move_concatenate(site: Site, arrays: Arrays) -> Arrays:
  along = site.params['dimension']
  shape = np.max([array.shape for array in arrays], axis=0)
  is_labelled = site.out_labels[0][along] is not None
  parts = []
  for array, aval in zip(arrays, site.inputs, strict=True):
    shape[along] = aval.shape[along] if is_labelled else array.shape[along]
    parts.append(np.broadcast_to(array, shape))
  return [np.concatenate(parts, along)]


def _tie_split(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  del ties
  axis, (labels,) = site.params['axis'], site.in_labels
  ids = labels[axis]
  ends = np.cumsum(site.params['sizes'])[:-1]
  count = len(site.outputs)
  parts = [None] * count if ids is None else np.split(ids, ends)
  return [(*labels[:axis], part, *labels[axis + 1 :]) for part in parts]


def _move_split(site: Site, arrays: Arrays) -> Arrays:
  axis, (array,) = site.params['axis'], arrays
  if site.in_labels[0][axis] is None:
    return [array] * len(site.outputs)
  return np.split(array, np.cumsum(site.params['sizes'])[:-1], axis)


def _build_split(site: Site, keep: Keep, values: Sequence[Any]):
  axis = site.params['axis']
  sizes = [
    keep.shape(aval, labels)[axis]
    for aval, labels in zip(site.outputs, site.out_labels, strict=True)
  ]
  return lax.split(values[0], sizes, axis)


def _tie_stack(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  axis = site.params['axis']
  tied = [ties.tie_all(column) for column in zip(*site.in_labels, strict=True)]
  return [(*tied[:axis], None, *tied[axis:])]


def _move_stack(site: Site, arrays: Arrays) -> Arrays:
  return [np.stack(np.broadcast_arrays(*arrays), site.params['axis'])]


def _tie_unstack(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  axis, (labels,) = site.params['axis'], site.in_labels
  ties.pin(labels[axis])
  return [(*labels[:axis], *labels[axis + 1 :])] * len(site.outputs)


def _move_unstack(site: Site, arrays: Arrays) -> Arrays:
  axis, (array,) = site.params['axis'], arrays
  is_labelled = site.in_labels[0][axis] is not None
  return [
    np.take(array, index if is_labelled else 0, axis)
    for index in range(len(site.outputs))
  ]


def _tie_tile(site: Site, ties: Ties) -> list[labels_lib.Labels]:
  del ties
  (labels,), reps = site.in_labels, site.params['reps']
  return [
    tuple(
      None if ids is None else np.tile(ids, count)
      for ids, count in zip(labels, reps, strict=True)
    )
  ]


def _move_tile(site: Site, arrays: Arrays) -> Arrays:
  (labels,), reps = site.in_labels, site.params['reps']
  return [
    np.tile(
      arrays[0],
      [
        1 if ids is None else count
        for ids, count in zip(labels, reps, strict=True)
      ],
    )
  ]


def _build_reshape(site: Site, keep: Keep, values: Sequence[Any]):
  shape = keep.shape(site.outputs[0], site.out_labels[0])
  return [lax.reshape(values[0], shape)]


RULES = {
  'broadcast_in_dim': _rule(_tie_broadcast, _move_broadcast, _build_broadcast),
  'concatenate': _rule(_tie_concatenate, _move_concatenate),
  'pad': _rule(_tie_pad, _move_pad, _build_pad),
  'reshape': _rule(reshaping.tie, reshaping.move, _build_reshape),
  'rev': _rule(_tie_rev, _move_rev),
  'slice': _rule(_tie_slice, _move_slice, _build_slice),
  'split': _rule(_tie_split, _move_split, _build_split),
  'squeeze': _rule(_tie_squeeze, _move_squeeze),
  'stack': _rule(_tie_stack, _move_stack),
  'tile': _rule(_tie_tile, _move_tile),
  'transpose': _rule(_tie_transpose, _move_transpose),
  'unstack': _rule(_tie_unstack, _move_unstack),
}
