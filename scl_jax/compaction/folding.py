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
"""Where to put back what a sum lacks: a bias that follows it.

The way forward leads through moves and additions to one with a leaf of params:
in `x @ W + b`, or in the `(x - mean) * ...` of BatchNorm. The way back to that
leaf leads through moves alone. Nothing on either way may be used elsewhere, and
where an entry of the leaf is added to several that matter, all have to lack the
same: 0 is an amount, too.
"""

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labelling
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import rule as rule_lib
from scl_jax.graph import rules


class _Amount(NamedTuple):
  """What is missing, 0 included, and where it matters; shaped like a fact."""

  value: np.ndarray
  matters: np.ndarray


def find(
  labelled: labelling.Labelled,
  index: int,
  missing: np.ndarray,
  matters: Callable[[int], np.ndarray],
  foldable: Sequence[bool],
) -> tuple[int, np.ndarray] | None:
  """A leaf that can take what is missing.

  Args:
    labelled: The function.
    index: The site whose result lacks something.
    missing: How much, with an entry for each labelled index.
    matters: Which entries of a variable stay and are needed.
    foldable: Whether an amount may be added to a leaf.

  Returns:
    The leaf's position and what to add to it, or `None`.
  """
  graph, sites, labels = labelled.body
  leaves = {v: i for i, v in enumerate(graph.leaves) if foldable[i]}
  users = _users(labelled)
  (variable,) = sites[index].node.outputs
  amount = _Amount(missing, matters(variable))
  while len(users[variable]) == 1:
    (user,) = users[variable]
    if user is None or len(sites[user].node.outputs) != 1:
      return None
    site = sites[user]
    if site.node.name in ('add', 'add_any', 'sub'):
      place = site.node.inputs.index(variable)
      other = site.node.inputs[1 - place]
      source = _source(labelled, other, users)
      if source is not None and source[0] in leaves:
        total = _gather(amount, source[1], graph.shape(source[0]))
        if total is None:
          return None
        sign = -1 if site.node.name == 'sub' else 1
        return leaves[source[0]], sign * total
      if site.node.name == 'sub' and place == 1:
        amount = amount._replace(value=-amount.value)
    elif not _keeps_values(labelled, site):
      # A product over a batch that stays whole may lack more along it.
      amount = _project(amount, labels[variable])
      amount = amount and _moved(site, variable, amount)
    (variable,) = site.node.outputs
    amount = amount and _project(amount, labels[variable])
    if amount is None:
      return None
    amount = amount._replace(matters=amount.matters & matters(variable))
  return None


def _users(labelled: labelling.Labelled) -> dict[int, list[int | None]]:
  """The sites that use a variable; other users are `None`."""
  graph, sites, _ = labelled.body
  users: dict[int, list[int | None]] = {v: [] for v in range(len(graph.avals))}
  for variable in graph.outputs:
    users[variable].append(None)
  inside = {
    index
    for call in graph.calls
    if call.rule is not None
    for index in range(call.start, call.stop)
  }
  for index, site in enumerate(sites):
    for variable in site.node.inputs:
      where = None if index in inside else index
      users[variable].append(where)
  return users


def _moved(
  site: rule_lib.Site, variable: int, amount: _Amount
) -> _Amount | None:
  """The amount after a primitive that only moves entries."""
  move = rules.rule_of(site.node).move
  if move is None:
    return None
  shapes = [labels_lib.sizes(labels) for labels in site.in_labels]

  def push(array, others):
    (result,) = move(
      site,
      [
        np.broadcast_to(array if v == variable else others, shape)
        for v, shape in zip(site.node.inputs, shapes, strict=True)
      ],
    )
    return result

  # What comes from elsewhere lacks nothing, and has to stay so.
  zero, true = np.zeros((), amount.value.dtype), np.ones((), bool)
  return _Amount(push(amount.value, zero), push(amount.matters, true))


def _keeps_values(labelled: labelling.Labelled, site: rule_lib.Site) -> bool:
  """Whether a primitive gives what it takes, but for rounding."""
  if site.node.name == 'convert_element_type':
    avals = labelled.body.graph.avals
    return all(
      jnp.issubdtype(avals[v].dtype, jnp.inexact)
      for v in (*site.node.inputs, *site.node.outputs)
    )
  return site.node.name == 'copy'


def _project(amount: _Amount, labels: labels_lib.Labels) -> _Amount | None:
  """The amount along fewer axes; `None` if it is not the same along them."""
  value, matters = np.broadcast_arrays(*amount)
  for axis, size in enumerate(labels_lib.sizes(labels)):
    if value.shape[axis] != size and size == 1:
      first = np.expand_dims(matters.argmax(axis), axis)
      first = np.take_along_axis(value, first, axis)
      if (matters & (value != first)).any():
        return None
      value, matters = first, np.logical_or.reduce(matters, axis, keepdims=True)
  return _Amount(value, matters)


def _source(
  labelled: labelling.Labelled,
  variable: int,
  users: dict[int, list[int | None]],
) -> tuple[int, np.ndarray] | None:
  """The leaf that a variable is a rearrangement of, and which entry is where.

  Entries are numbered as in the flattened leaf.
  """
  graph, sites, labels = labelled.body
  if len(users[variable]) != 1:
    return None
  if variable in graph.leaves:
    shape = graph.shape(variable)
    return variable, np.arange(math.prod(shape)).reshape(shape)
  site = next((s for s in sites if variable in s.node.outputs), None)
  if site is None or len(site.node.inputs) != 1:
    return None
  move = rules.rule_of(site.node).move
  if move is None and not _keeps_values(labelled, site):
    return None
  source = _source(labelled, site.node.inputs[0], users)
  if source is None:
    return None
  leaf, index = source
  if move is not None:
    if len(site.node.outputs) != 1:
      return None
    (index,) = move(site, [index])
  fact = facts_lib.Fact(index, np.ones(index.shape, bool))
  fact = facts_lib.project(fact, labels[variable])
  return (leaf, fact.value) if fact.known.all() else None


def _gather(
  amount: _Amount, index: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray | None:
  """What each entry of a leaf has to take; `None` if that is contradictory."""
  value, matters, index = np.broadcast_arrays(*amount, index)
  total = np.zeros(math.prod(shape))
  total[index[matters]] = value[matters]
  if (total[index[matters]] != value[matters]).any():
    return None
  return total.reshape(shape)
