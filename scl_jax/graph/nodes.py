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
"""A model as a flat list of nodes, read from its jaxpr.

`trace(fn, params, *inputs)` follows any function of arrays, whatever library it
is written in. Nested calls (`jit`, `checkpoint`, `custom_jvp`, `custom_vjp`)
are opened, so that what remains is a list of primitives in the order in which
they run; a `scan` that is short is written out. What may not be opened stays
one node: a longer `scan`, a `cond`, a `while_loop`.

A variable is a number; its shape, dtype and maker are looked up in the graph.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp

from scl_jax import checks
from scl_jax import equations
from scl_jax import tree as tree_lib
from scl_jax.graph import scans

PyTree = tree_lib.PyTree

PART_OF_INPUT = 'part_of_input'


class Node(NamedTuple):
  """One primitive.

  Attributes:
    name: The primitive's name, `'dot_general'`.
    inputs: Variables, literals and constants among them.
    outputs: Variables.
    params: The primitive's parameters.
    bind: Called with the inputs and parameters, computes the outputs, as a
      list.
  """

  name: str
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  params: dict[str, Any]
  bind: Callable[..., Sequence[Any]]


class Call(NamedTuple):
  """Nodes that were one call, with a meaning beyond the values.

  Attributes:
    name: `'checkpoint'`, `'custom_jvp_call'` or `'custom_vjp_call'`.
    start: The first node.
    stop: One past the last node.
    inputs: Variables from outside; the nodes use no others.
    outputs: Variables that the nodes compute.
    params: The primitive's parameters.
    rule: The derivative of a custom call, a graph of its own. Inputs are the
      call's inputs and tangents (`custom_jvp_call`) or cotangents
      (`custom_vjp_call`) of those that are floating point; outputs are the
      call's and their tangents, or the inputs' cotangents.
  """

  name: str
  start: int
  stop: int
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  params: dict[str, Any]
  rule: 'Graph | None'


@dataclasses.dataclass
class Graph:
  """A function of params and inputs, in the order in which it is computed.

  Attributes:
    leaves: The variables of the leaves of `params`.
    paths: Their paths.
    inputs: The variables of the other arguments' leaves.
    outputs: The variables that are returned; may hold leaves and constants.
    nodes: What is computed, in order.
    calls: Which runs of nodes were one call, outer ones first.
    avals: Shape and dtype of each variable.
    constants: The values of literals and captured constants.
    out_tree: The structure of what is returned.
  """

  leaves: tuple[int, ...] = ()
  paths: tuple[str, ...] = ()
  inputs: tuple[int, ...] = ()
  outputs: tuple[int, ...] = ()
  nodes: list[Node] = dataclasses.field(default_factory=list)
  calls: list[Call] = dataclasses.field(default_factory=list)
  avals: list[Any] = dataclasses.field(default_factory=list)
  constants: dict[int, Any] = dataclasses.field(default_factory=dict)
  out_tree: Any = None

  def shape(self, variable: int) -> tuple[Any, ...]:
    """The shape of a variable; may hold symbolic dimensions."""
    return tuple(self.avals[variable].shape)

  def from_params(self) -> set[int]:
    """The variables computed from params and constants alone."""
    found = {*self.leaves, *self.constants}
    for node in self.nodes:
      if all(variable in found for variable in node.inputs):
        found.update(node.outputs)
    return found


def trace(fn: Callable[..., Any], params: PyTree, *inputs: Any) -> Graph:
  """The graph of `fn(params, *inputs)`; nothing is computed.

  Args:
    fn: Any function that JAX can trace.
    params: A pytree of arrays or `jax.ShapeDtypeStruct`.
    *inputs: Pytrees of arrays or `jax.ShapeDtypeStruct`.

  Returns:
    A `Graph`.

  Raises:
    TypeError: If `fn` is no function, or JAX cannot trace it.

  Example:
    >>> fn = jax.jit(lambda p, x: jnp.tanh(x @ p['w']))
    >>> graph = trace(fn, {'w': jnp.ones((3, 2))}, jnp.ones((1, 3)))
    >>> [node.name for node in graph.nodes]
    ['dot_general', 'tanh']
  """
  checks.check_fn(fn)
  closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(params, *inputs)
  graph = _open(closed)
  count = len(jax.tree.leaves(params))
  graph.leaves, graph.inputs = graph.inputs[:count], graph.inputs[count:]
  graph.paths = tuple(path for path, _ in tree_lib.zip_leaves(params))
  graph.out_tree = jax.tree.structure(out_shape)
  return graph


def take_parts(graph: Graph) -> Graph:
  """The graph with a node wherever params meet what is made of inputs alone.

  The node, `PART_OF_INPUT`, is the identity. Behind it features may be removed,
  as it can pick what is left.

  Args:
    graph: From `trace`.

  Returns:
    Another graph.
  """
  avals = list(graph.avals)
  made_of_inputs = set(graph.inputs)
  result: list[Node] = []
  positions = []  # of the old nodes
  for node in graph.nodes:
    positions.append(len(result))
    given = [v for v in node.inputs if v in made_of_inputs]
    if all(v in made_of_inputs or v in graph.constants for v in node.inputs):
      made_of_inputs.update(node.outputs if given else ())
      given = []
    parts = {}
    for variable in dict.fromkeys(given):
      avals.append(avals[variable])
      parts[variable] = len(avals) - 1
      identity = lambda value, **_: [value]
      result.append(
        Node(PART_OF_INPUT, (variable,), (parts[variable],), {}, identity)
      )
    inputs = tuple(parts.get(v, v) for v in node.inputs)
    result.append(node._replace(inputs=inputs))
  positions.append(len(result))
  calls = [
    call._replace(start=positions[call.start], stop=positions[call.stop])
    for call in graph.calls
  ]
  return dataclasses.replace(graph, nodes=result, calls=calls, avals=avals)


def _open(closed: core.ClosedJaxpr, *, with_rules: bool = True) -> Graph:
  graph = Graph()
  graph.inputs = tuple(_new(graph, v.aval) for v in closed.jaxpr.invars)
  graph.outputs = tuple(
    _inline(graph, closed.jaxpr, closed.consts, graph.inputs, with_rules)
  )
  return graph


def _inline(
  graph: Graph,
  jaxpr: core.Jaxpr,
  consts: Sequence[Any],
  arguments: Sequence[int],
  with_rules: bool,
) -> list[int]:
  """Appends the nodes of a jaxpr; returns the variables of its results."""
  names: dict[Any, int] = dict(zip(jaxpr.invars, arguments, strict=True))
  for variable, value in zip(jaxpr.constvars, consts, strict=True):
    names[variable] = _constant(graph, variable.aval, value)

  def read(atom: Any) -> int:
    if isinstance(atom, core.Literal):
      return _constant(graph, atom.aval, atom.val)
    return names[atom]

  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    body, body_consts = equations.body(eqn)
    if name == 'scan' and scans.is_short(eqn):
      closed = scans.written_out(eqn)
      inputs = [read(v) for v in eqn.invars]
      outputs = _inline(graph, closed.jaxpr, closed.consts, inputs, with_rules)
    elif body is None:
      bind, variables = equations.binder(eqn)
      inputs = tuple(read(v) for v in variables)
      outputs = tuple(_new(graph, v.aval) for v in eqn.outvars)
      graph.nodes.append(Node(name, inputs, outputs, eqn.params, bind))
    elif name in equations.CALLS:
      inputs = [read(v) for v in eqn.invars]
      outputs = _inline(graph, body, body_consts, inputs, with_rules)
    else:
      slot, start = len(graph.calls), len(graph.nodes)
      results = _inline(
        graph, body, body_consts, [read(v) for v in eqn.invars], with_rules
      )
      # Copies, as a call may return what it was given.
      outputs = tuple(_copy(graph, variable) for variable in results)
      call = Call(
        name='checkpoint' if name in equations.CHECKPOINTS else name,
        start=start,
        stop=len(graph.nodes),
        inputs=tuple(read(v) for v in equations.variables(eqn)),
        outputs=outputs,
        params=eqn.params,
        rule=_rule(eqn) if with_rules and name in equations.CUSTOM else None,
      )
      if call.name == 'checkpoint' or call.rule is not None:
        graph.calls.insert(slot, call)
    names.update(zip(eqn.outvars, outputs, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _rule(eqn: core.JaxprEqn) -> Graph:
  """The derivative of a custom call, as a graph of its own."""
  run = equations.alone(eqn)
  avals = [_struct(v.aval) for v in equations.variables(eqn)]
  results = [_struct(v.aval) for v in eqn.outvars]
  smooth = [i for i, aval in enumerate(avals) if is_inexact(aval)]
  moving = [i for i, aval in enumerate(results) if is_inexact(aval)]

  def of_smooth(values):
    def call(*inexact):
      full = list(values)
      for index, value in zip(smooth, inexact, strict=True):
        full[index] = value
      return list(run(*full))

    return call, [values[i] for i in smooth]

  def jvp(values, tangents):
    call, inexact = of_smooth(values)
    out, derivatives = jax.jvp(call, inexact, tangents)
    return out, [derivatives[i] for i in moving]

  def vjp(values, cotangents):
    call, inexact = of_smooth(values)
    smooth_results = lambda *args: [call(*args)[i] for i in moving]
    return jax.vjp(smooth_results, *inexact)[1](cotangents)

  if eqn.primitive.name == 'custom_jvp_call':
    closed = jax.make_jaxpr(jvp)(avals, [avals[i] for i in smooth])
  else:
    closed = jax.make_jaxpr(vjp)(avals, [results[i] for i in moving])
  return _open(closed, with_rules=False)


def is_inexact(aval: Any) -> bool:
  """Whether a variable of this kind has a derivative."""
  return jnp.issubdtype(aval.dtype, jnp.inexact)


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _new(graph: Graph, aval: Any) -> int:
  graph.avals.append(aval)
  return len(graph.avals) - 1


def _constant(graph: Graph, aval: Any, value: Any) -> int:
  variable = _new(graph, aval)
  graph.constants[variable] = value
  return variable


def _copy(graph: Graph, variable: int) -> int:
  result = _new(graph, graph.avals[variable])
  bind = lambda value, **_: [core.primitives.copy_p.bind(value)]
  graph.nodes.append(Node('copy', (variable,), (result,), {}, bind))
  return result
