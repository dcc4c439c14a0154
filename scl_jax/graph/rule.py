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
"""What a primitive does to features: the interface.

A rule answers four questions about one kind of primitive, for four passes over
a graph: which features it ties (`tie`), what is known of its results (`know`),
which of its operands matter (`need`), and how it runs on smaller arrays
(`build`). A primitive without a rule is opaque: all it touches is kept.

A sum over features may lose terms that do not depend on the inputs. `spill`
says what is then missing from the result, for the caller to put it back
elsewhere, or to keep the features.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import nodes

Fact = facts_lib.Fact
Labels = labels_lib.Labels


class Site(NamedTuple):
  """A node and the labels of its variables.

  Attributes:
    node: The node.
    inputs: Shapes and dtypes of the operands.
    outputs: Shapes and dtypes of the results.
    in_labels: Labels of the operands.
    out_labels: Labels of the results; empty while they are sought.
  """

  node: nodes.Node
  inputs: tuple[Any, ...]
  outputs: tuple[Any, ...]
  in_labels: tuple[Labels, ...]
  out_labels: tuple[Labels, ...] = ()

  @property
  def params(self) -> dict[str, Any]:
    """The primitive's parameters."""
    return self.node.params


class Spill(NamedTuple):
  """What a sum lacks when terms are left out, or a part of that.

  Attributes:
    missing: The lacking amount, with an entry for each labelled index of the
      result.
    is_exact: Whether `missing` is that amount at every position; otherwise it
      is only not 0 where something is missing.
    blame: From entries of the result, as bools, to the ids of the left-out
      indices that they lack.
  """

  missing: np.ndarray
  is_exact: bool
  blame: Callable[[np.ndarray], np.ndarray]


class Keep(NamedTuple):
  """Which indices are kept, by id.

  Attributes:
    kept: [ids], whether an id is kept.
  """

  kept: np.ndarray

  def of(self, ids: labels_lib.Label) -> np.ndarray | None:
    """Which indices of an axis are kept; `None` if all."""
    if ids is None or self.kept[ids].all():
      return None
    return self.kept[ids]

  def shape(self, aval: Any, labels: Labels) -> tuple[Any, ...]:
    """The shape of what is kept of a variable."""
    kept = [self.of(ids) for ids in labels]
    return tuple(
      size if mask is None else int(mask.sum())
      for size, mask in zip(aval.shape, kept, strict=True)
    )


def no_spill(
  site: Site, facts: Sequence[Fact], dropped: np.ndarray
) -> list[Spill]:
  """For what sums over no feature."""
  del site, facts, dropped
  return []


def bind(site: Site, keep: Keep, values: Sequence[Any]) -> Sequence[Any]:
  """For primitives without shapes among their parameters."""
  del keep
  return site.node.bind(*values, **site.params)


class Rule(NamedTuple):
  """How features go through a primitive.

  Attributes:
    tie: `(site, ties) -> labels of the results`.
    know: `(site, facts of the operands) -> facts of the results`.
    need: `(site, facts of the operands, needs of the results) -> needs of the
      operands`; a need is an array of bools shaped like a fact.
    build: `(site, keep, values of the operands) -> values of the results`.
    spill: `(site, facts of the operands, dropped ids) -> Spills`, whose amounts
      add up; what is exact is apart from what is not.
    move: Of primitives that only move entries about, what they do to arrays
      shaped like facts, `(site, arrays) -> arrays`; else `None`.
  """

  tie: Callable[[Site, labels_lib.Ties], Sequence[Labels]]
  know: Callable[[Site, Sequence[Fact]], Sequence[Fact]]
  need: Callable[
    [Site, Sequence[Fact], Sequence[np.ndarray]], Sequence[np.ndarray]
  ]
  build: Callable[[Site, Keep, Sequence[Any]], Sequence[Any]] = bind
  spill: Callable[[Site, Sequence[Fact], np.ndarray], list[Spill]] = no_spill
  move: Callable[[Site, Sequence[np.ndarray]], Sequence[np.ndarray]] | None = (
    None
  )


def tie_nothing(site: Site, ties: labels_lib.Ties) -> list[Labels]:
  """Keeps all operands and results whole."""
  for labels in site.in_labels:
    for ids in labels:
      ties.pin(ids)
  return [(None,) * len(aval.shape) for aval in site.outputs]


def know_nothing(site: Site, facts: Sequence[Fact]) -> list[Fact]:
  """The results may be anything."""
  del facts
  return [
    facts_lib.unknown(aval, labels)
    for aval, labels in zip(site.outputs, site.out_labels, strict=True)
  ]


def need_all(
  site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Every entry of the operands matters."""
  del facts, needs
  return [np.ones(labels_lib.sizes(labels), bool) for labels in site.in_labels]


OPAQUE = Rule(tie_nothing, know_nothing, need_all)
