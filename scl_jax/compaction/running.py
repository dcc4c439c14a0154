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
"""Runs a graph on what a plan keeps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax.compaction import planning
from scl_jax.graph import labelling
from scl_jax.graph import nodes
from scl_jax.graph import rule as rule_lib
from scl_jax.graph import rules


def take(array: Any, masks: Sequence[np.ndarray | None]) -> Any:
  """The entries at the kept indices of each axis.

  Args:
    array: Any array.
    masks: For each axis which indices are kept, or the indices; `None` for all.

  Returns:
    An array of the same dtype.
  """
  for axis, mask in enumerate(masks):
    if mask is not None:
      index = np.flatnonzero(mask) if mask.dtype == bool else mask
      if len(index) != array.shape[axis]:
        array = jnp.take(array, index, axis, mode='clip')
  return array


def run(
  plan: planning.Plan, leaves: Sequence[Any], inputs: Sequence[Any]
) -> Any:
  """The function on smaller params.

  Args:
    plan: What is kept.
    leaves: The leaves of the small params.
    inputs: The leaves of the other arguments.

  Returns:
    What the original function returns.
  """
  graph = plan.labelled.body.graph
  outputs = _run_body(
    plan.labelled.body,
    plan,
    [*graph.leaves, *graph.inputs],
    [*leaves, *inputs],
    graph.outputs,
    (0, len(graph.nodes)),
    graph.calls,
  )
  return jax.tree.unflatten(graph.out_tree, outputs)


def _run_body(
  body: labelling.Body,
  plan: planning.Plan,
  given: Sequence[int],
  values: Sequence[Any],
  wanted: Sequence[int],
  span: tuple[int, int],
  calls: Sequence[nodes.Call],
) -> list[Any]:
  """Runs the nodes of a span; a call within it keeps its derivative."""
  graph, sites, labels = body
  found = {
    variable: take(value, [plan.keep.of(ids) for ids in labels[variable]])
    if labels[variable]
    else value
    for variable, value in graph.constants.items()
  }
  found.update(zip(given, values, strict=True))
  index, stop = span
  pending: Sequence[nodes.Call] = calls
  while index < stop:
    call = next((c for c in pending if c.start == index), None)
    if call is None:
      site = sites[index]
      results = _run_site(site, plan.keep, [found[v] for v in site.node.inputs])
      found.update(zip(site.node.outputs, results, strict=True))
      index += 1
      continue
    within = [
      c for c in pending if c is not call and index <= c.start < call.stop
    ]
    function = _as_call(body, plan, call, within)
    results = function(*(found[v] for v in call.inputs))
    found.update(zip(call.outputs, results, strict=True))
    pending = [c for c in pending if c.start >= call.stop]
    index = call.stop
  return [found[v] for v in wanted]


def _run_site(
  site: rule_lib.Site, keep: rule_lib.Keep, values: Sequence[Any]
) -> Sequence[Any]:
  every = (ids for ls in (*site.in_labels, *site.out_labels) for ids in ls)
  if all(keep.of(ids) is None for ids in every):
    return site.node.bind(*values, **site.params)
  return rules.rule_of(site.node).build(site, keep, values)


def _as_call(
  body: labelling.Body,
  plan: planning.Plan,
  call: nodes.Call,
  within: Sequence[nodes.Call],
):
  """The nodes of a call as a function, with its derivative."""

  def function(*values):
    return _run_body(
      body, plan, call.inputs, values, call.outputs, (call.start, call.stop),
      within,
    )  # fmt: skip

  if call.name == 'checkpoint':
    return jax.checkpoint(
      function,
      prevent_cse=call.params.get('prevent_cse', True),
      policy=call.params.get('policy'),
    )
  index = next(i for i, c in enumerate(body.graph.calls) if c is call)
  derivative = plan.labelled.derivatives[index]
  graph = derivative.graph

  def differentiate(values, others):
    return _run_body(
      derivative, plan, graph.inputs, [*values, *others], graph.outputs,
      (0, len(graph.nodes)), graph.calls,
    )  # fmt: skip

  avals = body.graph.avals
  smooth = [nodes.is_inexact(avals[v]) for v in call.inputs]
  moving = [nodes.is_inexact(avals[v]) for v in call.outputs]

  if call.name == 'custom_jvp_call':
    wrapped = jax.custom_jvp(function)

    @wrapped.defjvp
    def _(values, tangents):
      tangents = [t for t, s in zip(tangents, smooth, strict=True) if s]
      results = iter(differentiate(values, tangents))
      out = [next(results) for _ in call.outputs]
      return out, [
        next(results) if is_moving else _no_tangent(value)
        for value, is_moving in zip(out, moving, strict=True)
      ]

    return wrapped

  wrapped = jax.custom_vjp(function)

  def backward(values, cotangents):
    cotangents = [c for c, m in zip(cotangents, moving, strict=True) if m]
    results = iter(differentiate(values, cotangents))
    return tuple(
      next(results) if is_smooth else _no_tangent(value)
      for value, is_smooth in zip(values, smooth, strict=True)
    )

  wrapped.defvjp(lambda *values: (function(*values), values), backward)
  return wrapped


def _no_tangent(value: Any) -> np.ndarray:
  return np.zeros(jnp.shape(value), jax.dtypes.float0)
