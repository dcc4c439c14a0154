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
"""Groups of features that stand or fall together, in a whole graph."""

from typing import NamedTuple

import numpy as np

from scl_jax.graph import labels as labels_lib
from scl_jax.graph import nodes
from scl_jax.graph import rule as rule_lib
from scl_jax.graph import rules


class Body(NamedTuple):
  """A graph whose variables have labels.

  Attributes:
    graph: The graph.
    sites: Its nodes with labels.
    labels: The labels of each variable.
  """

  graph: nodes.Graph
  sites: list[rule_lib.Site]
  labels: dict[int, labels_lib.Labels]


class Labelled(NamedTuple):
  """A function and its groups of features.

  Attributes:
    body: The function.
    derivatives: Those of its custom calls, by their place in `graph.calls`.
    groups: The group of each id.
    pinned: Whether a group must stay, by its number.
    had_choice: Whether a reshape could carry features in several ways.
  """

  body: Body
  derivatives: dict[int, Body]
  groups: np.ndarray
  pinned: np.ndarray
  had_choice: bool


def label(graph: nodes.Graph, *, prefer_first: bool = True) -> Labelled:
  """Finds the groups.

  Args:
    graph: From `graph.trace`.
    prefer_first: Where a reshape joins or splits several axes that may carry
      features, whether the first does or the last.

  Returns:
    The groups.
  """
  ties = labels_lib.Ties(prefer_first=prefer_first)
  labels: dict[int, labels_lib.Labels] = {
    v: (None,) * len(aval.shape) for v, aval in enumerate(graph.avals)
  }
  labels.update(_fresh(graph, (*graph.leaves, *graph.constants), ties))
  body = _tie_nodes(graph, labels, ties)
  used = {v for node in graph.nodes for v in node.inputs}
  _pin(body, graph.outputs, ties)
  _pin(body, [leaf for leaf in graph.leaves if leaf not in used], ties)
  derivatives = {
    index: _derivative(body, call, ties)
    for index, call in enumerate(graph.calls)
    if call.rule is not None
  }
  groups, pinned = ties.groups()
  return Labelled(body, derivatives, groups, pinned, ties.had_choice)


def _fresh(graph, variables, ties) -> dict[int, labels_lib.Labels]:
  return {v: tuple(ties.fresh(n) for n in graph.shape(v)) for v in variables}


def _pin(body, variables, ties) -> None:
  for variable in variables:
    for ids in body.labels[variable]:
      ties.pin(ids)


def _tie_nodes(
  graph: nodes.Graph,
  labels: dict[int, labels_lib.Labels],
  ties: labels_lib.Ties,
) -> Body:
  sites = []
  for node in graph.nodes:
    site = rule_lib.Site(
      node,
      tuple(graph.avals[v] for v in node.inputs),
      tuple(graph.avals[v] for v in node.outputs),
      tuple(labels[v] for v in node.inputs),
    )
    results = tuple(rules.rule_of(node).tie(site, ties))
    labels.update(zip(node.outputs, results, strict=True))
    sites.append(site._replace(out_labels=results))
  return Body(graph, sites, labels)


def _derivative(body: Body, call: nodes.Call, ties: labels_lib.Ties) -> Body:
  """Lets the derivative of a custom call tie and pin, too."""
  graph = call.rule
  assert graph is not None

  def smooth(variables):
    return [v for v in variables if nodes.is_inexact(body.graph.avals[v])]

  if call.name == 'custom_jvp_call':
    inputs = [*call.inputs, *smooth(call.inputs)]
    outputs = [*call.outputs, *smooth(call.outputs)]
  else:
    inputs = [*call.inputs, *smooth(call.outputs)]
    outputs = smooth(call.inputs)
  labels: dict[int, labels_lib.Labels] = {
    v: (None,) * len(aval.shape) for v, aval in enumerate(graph.avals)
  }
  labels.update(_fresh(graph, graph.constants, ties))
  for inner, outer in zip(graph.inputs, inputs, strict=True):
    labels[inner] = body.labels[outer]
  derivative = _tie_nodes(graph, labels, ties)
  for inner, outer in zip(graph.outputs, outputs, strict=True):
    for a, b in zip(labels[inner], body.labels[outer], strict=True):
      ties.tie(a, b)
  for site in derivative.sites:
    # Nothing is known of tangents, so no term of a sum may go.
    if rules.rule_of(site.node).spill is not rule_lib.no_spill:
      through = {id(ids) for labels in site.out_labels for ids in labels}
      for ids in (ids for labels in site.in_labels for ids in labels):
        if id(ids) not in through:
          ties.pin(ids)
  return derivative
