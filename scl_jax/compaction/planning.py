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
"""Which features may go, and what has to be put back for them.

Why this is exact. Of each entry two things are worked out, along the order of
computation and against it: whether it is *known*, the same whatever the inputs,
and whether it is *needed*, that is, whether any result depends on it. A group
of tied indices goes if each entry in each of its places is known or not needed.
Then every needed entry that stays keeps its value, by induction: what is
computed from it is computed from needed entries, which stayed, or were known
and left out of a sum. If what they would have added is 0, nothing is missing;
otherwise it is added to a bias that follows (`folding`), and where that is not
possible the group stays. That can make other folds necessary, so it is repeated
until nothing changes; groups only ever return, so it ends, with the largest set
that may go.

This takes 0 times anything to be 0, which holds for what is finite. An entry
that stays without being needed may change, as what it is computed from went. So
where a change could make something infinite, in a logarithm or a quotient, or
where nothing is known about a primitive, what stays is needed after all. And
what is known to be infinite stays, unless it is only there to be chosen, as in
`jnp.where(mask, scores, -jnp.inf)`. What is left to chance is that sums and
products of unneeded entries overflow, and that what is chosen is multiplied by
0 without a softmax or the like between.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from scl_jax.compaction import folding
from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labelling
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import rule as rule_lib
from scl_jax.graph import rules

Kept = tuple[np.ndarray, ...]

# What makes the shape of a constant that of what it is an alternative to.
_REPEATS = ('broadcast_in_dim', 'convert_element_type', 'copy', 'reshape')


class Plan(NamedTuple):
  """How a function becomes a smaller one.

  Attributes:
    labelled: The function and its groups.
    keep: Which ids are kept.
    kept: For each leaf and axis, the indices that are kept.
    folds: Amounts to add to leaves, by the leaf's position, in the original
      shapes.
  """

  labelled: labelling.Labelled
  keep: rule_lib.Keep
  kept: list[Kept]
  folds: dict[int, np.ndarray]


def make(
  labelled: labelling.Labelled,
  values: list[np.ndarray],
  foldable: list[bool],
  wanted: list[Kept] | None = None,
) -> Plan:
  """Decides what goes.

  Args:
    labelled: From `label`.
    values: The values of the leaves of params.
    foldable: Whether an amount may be added to a leaf.
    wanted: What is to be kept of each leaf's axes; `None` for as little as
      possible.

  Returns:
    The plan.

  Raises:
    ValueError: If `wanted` leaves out what has to stay.
  """
  facts = _know(labelled, values)
  only_chosen = _only_chosen(labelled)
  needs = {
    v: fact.known & ~_is_finite(fact) & (v not in only_chosen)
    for v, fact in facts.items()
  }
  while True:
    needs = _need(labelled, facts, needs)
    keep, folds = _choose(labelled, facts, needs, foldable, wanted)
    more = _fragile(labelled, facts, needs, keep)
    if not more:
      break
    needs = {v: need | more.get(v, False) for v, need in needs.items()}

  return _checked(labelled, keep, folds, wanted)


def follow(labelled: labelling.Labelled, wanted: list[Kept]) -> Plan:
  """Leaves out what was proved to matter to nothing in other dtypes.

  What is known is not worked out again: a constant that is 0 in a short dtype,
  as it is added to what is larger, need not be so in a longer one.

  Args:
    labelled: From `label`.
    wanted: What is kept of each leaf's axes.

  Returns:
    The plan, without folds.

  Raises:
    ValueError: If what is left out is tied to what has to stay.
  """
  going = _going(labelled, wanted) & ~labelled.pinned
  keep = rule_lib.Keep(~going[labelled.groups])
  return _checked(labelled, keep, {}, wanted)


def _checked(
  labelled: labelling.Labelled,
  keep: rule_lib.Keep,
  folds: dict[int, np.ndarray],
  wanted: list[Kept] | None,
) -> Plan:
  """A plan, if it keeps what is wanted."""
  graph, _, labels = labelled.body
  kept = [
    tuple(np.flatnonzero(keep.kept[ids]) for ids in labels[leaf])
    for leaf in graph.leaves
  ]
  if wanted is not None:
    for path, axes, wanted_axes in zip(graph.paths, kept, wanted, strict=True):
      for axis, (stays, may) in enumerate(zip(axes, wanted_axes, strict=True)):
        if not np.array_equal(stays, may):
          raise ValueError(
            f'The compaction does not hold here: axis {axis} of {path!r} has '
            f'to keep {len(stays)} indices, not {len(may)}. For inputs of '
            'other shapes compact the model again.'
          )
  return Plan(labelled, keep, kept, folds)


def _choose(
  labelled: labelling.Labelled,
  facts: dict[int, facts_lib.Fact],
  needs: dict[int, np.ndarray],
  foldable: list[bool],
  wanted: list[Kept] | None,
) -> tuple[rule_lib.Keep, dict[int, np.ndarray]]:
  """The largest set of groups that may go, and what to add to leaves then."""
  (graph, sites, labels), groups = labelled.body, labelled.groups
  may_go = _candidates(labelled, facts, needs)
  if wanted is not None:
    may_go &= _going(labelled, wanted)
  while True:
    dropped = may_go[groups]
    keep = rule_lib.Keep(~dropped)
    matters = lambda v, keep=keep: _stays(needs[v], labels[v], keep)
    folds: dict[int, np.ndarray] = {}
    guilty = [np.zeros(0, int)]
    for index, spill in _spills(labelled, facts, dropped):
      lacks = (spill.missing != 0) & matters(sites[index].node.outputs[0])
      if not lacks.any():
        continue
      fold = spill.is_exact and folding.find(
        labelled, index, spill.missing, matters, foldable
      )
      if fold:
        leaf, amount = fold
        amount = folds.get(leaf, 0) + amount
      if fold and _fits(facts[graph.leaves[leaf]].value, amount):
        folds[leaf] = amount
      else:
        guilty.append(spill.blame(lacks))
    if not (ids := np.concatenate(guilty)).size:
      return keep, folds
    may_go[groups[ids]] = False


def _spills(
  labelled: labelling.Labelled,
  facts: dict[int, facts_lib.Fact],
  dropped: np.ndarray,
) -> Iterator[tuple[int, rule_lib.Spill]]:
  """What sums lack without the dropped ids, with the place of their site."""
  for index, site in enumerate(labelled.body.sites):
    in_facts = [facts[v] for v in site.node.inputs]
    for spill in rules.rule_of(site.node).spill(site, in_facts, dropped):
      yield index, spill


def _fits(leaf: np.ndarray, amount: np.ndarray) -> bool:
  """Whether a leaf stays finite with an amount added to it."""
  with np.errstate(over='ignore'):
    total = (leaf + amount).astype(leaf.dtype)
  return bool(np.isfinite(total.astype(np.float64)).all())


def _candidates(
  labelled: labelling.Labelled,
  facts: dict[int, facts_lib.Fact],
  needs: dict[int, np.ndarray],
) -> np.ndarray:
  """Groups that may go as far as their own entries are concerned."""
  (graph, _, labels), groups = labelled.body, labelled.groups
  may_go = np.zeros_like(labelled.pinned)
  for leaf in graph.leaves:
    for ids in labels[leaf]:
      may_go[groups[ids]] = True
  may_go &= ~labelled.pinned
  for variable, fact in facts.items():
    fine = (fact.known & _is_finite(fact)) | ~needs[variable]
    for axis, ids in enumerate(labels[variable]):
      if ids is not None:
        others = tuple(a for a in range(fine.ndim) if a != axis)
        may_go[groups[ids[~fine.all(others)]]] = False
  return may_go


def _going(labelled: labelling.Labelled, wanted: Sequence[Kept]) -> np.ndarray:
  """The groups that `wanted` leaves out."""
  graph, _, labels = labelled.body
  going = np.zeros_like(labelled.pinned)
  for leaf, axes in zip(graph.leaves, wanted, strict=True):
    for ids, kept in zip(labels[leaf], axes, strict=True):
      assert ids is not None  # leaves have labels on all axes
      going[labelled.groups[np.delete(ids, kept)]] = True
  return going


def _know(
  labelled: labelling.Labelled, values: list[np.ndarray]
) -> dict[int, facts_lib.Fact]:
  graph, sites, labels = labelled.body
  facts = {}
  given = {**dict(zip(graph.leaves, values, strict=True)), **graph.constants}
  for variable, value in given.items():
    facts[variable] = facts_lib.constant(
      graph.avals[variable], value, labels[variable]
    )
  for variable in graph.inputs:
    facts[variable] = facts_lib.unknown(graph.avals[variable], labels[variable])
  for site in sites:
    in_facts = [facts[v] for v in site.node.inputs]
    results = rules.rule_of(site.node).know(site, in_facts)
    facts.update(zip(site.node.outputs, results, strict=True))
  return facts


def _need(
  labelled: labelling.Labelled,
  facts: dict[int, facts_lib.Fact],
  needs: dict[int, np.ndarray],
) -> dict[int, np.ndarray]:
  """Adds what the outputs, and what is needed already, depend on."""
  graph, sites, _ = labelled.body
  needs = dict(needs)
  for variable in graph.outputs:
    needs[variable] = np.ones_like(needs[variable])
  for site in reversed(sites):
    wanted = [needs[v] for v in site.node.outputs]
    if not any(w.any() for w in wanted):
      continue
    in_facts = [facts[v] for v in site.node.inputs]
    results = rules.rule_of(site.node).need(site, in_facts, wanted)
    for variable, result in zip(site.node.inputs, results, strict=True):
      needs[variable] = needs[variable] | result
  return needs


def _only_chosen(labelled: labelling.Labelled) -> set[int]:
  """Variables that nothing reads but a `select_n`, to choose from."""
  graph, sites, _ = labelled.body
  others = set(graph.outputs)
  for site in reversed(sites):
    node = site.node
    if node.name == 'select_n':
      others.update(node.inputs[:1])
    elif node.name not in _REPEATS or not others.isdisjoint(node.outputs):
      others.update(node.inputs)
  return set(range(len(graph.avals))) - others


def _fragile(
  labelled: labelling.Labelled,
  facts: dict[int, facts_lib.Fact],
  needs: dict[int, np.ndarray],
  keep: rule_lib.Keep,
) -> dict[int, np.ndarray]:
  """What stays unneeded, enters the outputs, and may become infinite."""
  graph, sites, labels = labelled.body
  used = set(graph.outputs)
  for site in reversed(sites):
    if not used.isdisjoint(site.node.outputs):
      used.update(site.node.inputs)
  found = {}
  for site in sites:
    in_facts = [facts[v] for v in site.node.inputs]
    if not rules.is_bounded(site.node, graph.constants) or (
      site.node.name == 'select_n'
      and any((fact.known & ~_is_finite(fact)).any() for fact in in_facts)
    ):
      for variable in used.intersection(site.node.outputs):
        stays = _stays(~needs[variable], labels[variable], keep)
        if stays.any():
          found[variable] = stays
  return found


def _is_finite(fact: facts_lib.Fact) -> np.ndarray:
  value = fact.value
  if not np.issubdtype(value.dtype, np.number):
    value = value.astype(np.float32)  # bfloat16 and its like, and bools
  return np.isfinite(value)


def _stays(
  need: np.ndarray, labels: labels_lib.Labels, keep: rule_lib.Keep
) -> np.ndarray:
  """What is needed of what is kept."""
  for axis, ids in enumerate(labels):
    mask = keep.of(ids)
    if mask is not None:
      shape = [-1 if a == axis else 1 for a in range(len(labels))]
      need = need & mask.reshape(shape)
  return need
