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
"""Rules of lookups: `gather`, `dynamic_slice`, and taking part of an input.

Axes that are taken whole pass through, as the features of an embedding do;
those that are indexed stay whole. A feature that has the same value in all
entries of a table is known, for indices in range.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import nodes
from scl_jax.graph import rule as rule_lib

Keep = rule_lib.Keep
Site = rule_lib.Site


def _passes(site: Site) -> dict[int, int]:
  """Axes of the operand that are taken whole, and where they go."""
  shape, sizes = site.inputs[0].shape, site.params['slice_sizes']
  if site.node.name == 'dynamic_slice':
    return {a: a for a, n in enumerate(shape) if sizes[a] == n}
  numbers = site.params['dimension_numbers']
  away = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  offsets = [axis for axis in range(len(shape)) if axis not in away]
  return {
    axis: target
    for axis, target in zip(offsets, numbers.offset_dims, strict=True)
    if sizes[axis] == shape[axis] and axis not in numbers.start_index_map
  }


def _tie(site: Site, ties: labels_lib.Ties) -> list[labels_lib.Labels]:
  operand, *others = site.in_labels
  passes = _passes(site)
  result: list[labels_lib.Label] = [None] * len(site.outputs[0].shape)
  for axis, ids in enumerate(operand):
    if axis in passes:
      result[passes[axis]] = ids
    else:
      ties.pin(ids)
  for labels in others:
    for ids in labels:
      ties.pin(ids)
  return [tuple(result)]


def _know(site: Site, facts: Sequence[facts_lib.Fact]) -> list[facts_lib.Fact]:
  passes, (labels, *_) = _passes(site), site.in_labels
  fact = facts_lib.project(
    facts[0],
    tuple(ids if a in passes else None for a, ids in enumerate(labels)),
  )
  order = sorted(passes, key=lambda axis: passes[axis])
  rest = [axis for axis in range(len(labels)) if axis not in passes]
  shape = [1] * len(site.outputs[0].shape)
  for axis in passes:
    shape[passes[axis]] = fact.known.shape[axis]
  value, known = (np.transpose(x, [*order, *rest]).reshape(shape) for x in fact)
  return [facts_lib.Fact(value, known)]


def _need(
  site: Site,
  facts: Sequence[facts_lib.Fact],
  needs: Sequence[np.ndarray],
) -> list[np.ndarray]:
  all_needs = rule_lib.need_all(site, facts, needs)
  passes, (wanted,) = _passes(site), needs
  rest = tuple(a for a in range(wanted.ndim) if a not in passes.values())
  wanted = wanted.any(rest)  # the axes that pass, in the result's order
  order = sorted(passes, key=lambda axis: passes[axis])
  wanted = np.transpose(wanted, np.argsort(order))
  missing = [a for a in range(len(site.in_labels[0])) if a not in passes]
  wanted = np.expand_dims(wanted, missing)
  return [facts_lib.fit(wanted, site.in_labels[0]), *all_needs[1:]]


def _build(site: Site, keep: Keep, values: Sequence[Any]):
  params = dict(site.params)
  sizes = list(params['slice_sizes'])
  shape = keep.shape(site.inputs[0], site.in_labels[0])
  for axis in _passes(site):
    sizes[axis] = shape[axis]
  params['slice_sizes'] = tuple(sizes)
  return site.node.bind(*values, **params)


_LOOKUP = rule_lib.Rule(_tie, _know, _need, _build)


def _tie_part(site: Site, ties: labels_lib.Ties) -> list[labels_lib.Labels]:
  """New ids for all axes but the batch."""
  (aval,) = site.outputs
  return [
    tuple(
      ties.fresh(size) if axis and isinstance(size, int) and size > 1 else None
      for axis, size in enumerate(aval.shape)
    )
  ]


def _need_part(
  site: Site,
  facts: Sequence[facts_lib.Fact],
  needs: Sequence[np.ndarray],
) -> list[np.ndarray]:
  del facts
  return [facts_lib.fit(needs[0], site.in_labels[0])]


def _build_part(site: Site, keep: Keep, values: Sequence[Any]):
  (value,) = values
  for axis, ids in enumerate(site.out_labels[0]):
    mask = keep.of(ids)
    if mask is not None:
      value = jnp.take(value, np.flatnonzero(mask), axis, mode='clip')
  return [value]


RULES = {
  'gather': _LOOKUP,
  'dynamic_slice': _LOOKUP,
  nodes.PART_OF_INPUT: rule_lib.Rule(
    _tie_part, rule_lib.know_nothing, _need_part, _build_part
  ),
}
