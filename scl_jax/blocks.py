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
"""A step of an optimizer on a CPU, block by block where arrays are large.

There XLA computes the update of a layer in several loops over whole arrays. For
SCL with Adam they move 79 bytes a parameter, where what must be read and
written is 44: the rest is what one loop leaves for the next. Here a block of
the arrays goes through all of the loops before the next block does, so that
what is between stays in the cache.

The step is read from its jaxpr. What is elementwise on a large array is done in
blocks; all else (norms, histograms, products) is done whole, before or after.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import jax
from jax import core
import jax.numpy as jnp
import optax

from scl_jax import checks
from scl_jax import tree as tree_lib
from scl_jax.graph import elementwise
from scl_jax.graph import nodes

PyTree = tree_lib.PyTree

# Entries of an array that is too large for the cache, and of a block.
_LARGE = 2**20
_BLOCK = 2**18


def step_in_blocks(
  optimizer: optax.GradientTransformation,
  grads: PyTree,
  opt_state: optax.OptState,
  params: PyTree,
  **extra_args: Any,
) -> tuple[PyTree, optax.OptState]:
  """`optimizer.update` and `optax.apply_updates`, for large layers on a CPU.

  The results are the same but for rounding. Arrays of a million entries and
  more are worked on block by block, where XLA would go over the whole of them
  several times.

  Call it within `jax.jit`, with params and state donated, so that blocks are
  written where they were read; without `jit` it is the plain step. It is made
  for one CPU: on accelerators it has not been measured, and blocks of arrays
  that are cut over devices would be sent around.

  Args:
    optimizer: Any optax optimizer, `sparsify(...)` among them.
    grads: The gradients, as for `optimizer.update`.
    opt_state: The optimizer's state.
    params: The params that the gradients are of.
    **extra_args: What else `optimizer.update` takes.

  Returns:
    The new params, and the new state.

  Raises:
    TypeError: If the optimizer is none.

  Example:
    >>> tx = scl_jax.sparsify(optax.adam(1e-3), scl_jax.scl(penalty=5e-3))
    >>> loss_fn = lambda params: jnp.sum(params['w'] ** 2)
    >>> def train_step(params, opt_state):
    ...   grads = jax.grad(loss_fn)(params)
    ...   return step_in_blocks(tx, grads, opt_state, params)
    >>> train_step = jax.jit(train_step, donate_argnums=(0, 1))
    >>> params = {'w': jnp.ones((2, 2))}
    >>> params, opt_state = train_step(params, tx.init(params))
  """
  checks.check_optimizer(optimizer)
  optimizer = optax.with_extra_args_support(optimizer)

  def step(grads, opt_state, params):
    updates, opt_state = optimizer.update(
      grads, opt_state, params, **extra_args
    )
    return optax.apply_updates(params, updates), opt_state

  @jax.custom_jvp
  def blocked_step(grads, opt_state, params):
    arguments = (grads, opt_state, params)
    graph = nodes.trace(lambda arguments: step(*arguments), arguments)
    return _run(graph, jax.tree.leaves(arguments))

  # The graph has no derivatives of custom calls.
  blocked_step.defjvp(lambda *args: jax.jvp(step, *args))

  arguments = (grads, opt_state, params)
  # Without jit, each step would compile its loops anew.
  is_traced = any(
    isinstance(x, core.Tracer) for x in jax.tree.leaves(arguments)
  )
  return (blocked_step if is_traced else step)(*arguments)


class _Stage(NamedTuple):
  """Nodes that can run once the stages before have run.

  Attributes:
    whole: What needs whole arrays; runs first.
    cut: What can be done in blocks.
  """

  whole: list[nodes.Node]
  cut: list[nodes.Node]


def _run(graph: nodes.Graph, leaves: Sequence[Any]) -> PyTree:
  """Computes a graph of one argument."""
  found = {**graph.constants, **dict(zip(graph.leaves, leaves, strict=True))}
  stages, last_use = _plan(graph)
  for index, (whole, cut) in enumerate(stages):
    _run_whole(whole, found)
    needed = {v for v, last in last_use.items() if last > index}
    for group in _groups(graph, cut):
      if len(group) == 1:
        _run_whole(group, found)
      else:
        _run_in_blocks(graph, group, found, needed)
  return jax.tree.unflatten(graph.out_tree, [found[v] for v in graph.outputs])


def _plan(graph: nodes.Graph) -> tuple[list[_Stage], dict[int, float]]:
  """The stages, and the last stage in which each variable is read.

  A node is in the stage of what it reads, or in the next one where that is cut
  into blocks of another shape.
  """
  stages: list[_Stage] = []
  made_in: dict[int, int] = {}
  cut_shapes: dict[int, tuple[int, ...] | None] = {}
  last_use: dict[int, float] = {}
  for node in graph.nodes:
    shape, index = _cut_shape(graph, node), 0
    for variable in node.inputs:
      must_wait = cut_shapes.get(variable) not in (None, shape)
      index = max(index, made_in.get(variable, 0) + must_wait)
    for variable in node.inputs:
      last_use[variable] = max(index, last_use.get(variable, 0))
    for variable in node.outputs:
      made_in[variable], cut_shapes[variable] = index, shape
    stages += [_Stage([], []) for _ in range(index + 1 - len(stages))]
    (stages[index].cut if shape else stages[index].whole).append(node)
  last_use.update(dict.fromkeys(graph.outputs, math.inf))
  return stages, last_use


def _cut_shape(graph: nodes.Graph, node: nodes.Node) -> tuple[int, ...] | None:
  """The shape of the large array that a node can compute in blocks."""
  if node.name not in ('broadcast_in_dim', *elementwise.NAMES):
    return None
  shape = graph.shape(node.outputs[0])
  return shape if math.prod(shape) >= _LARGE else None


def _groups(
  graph: nodes.Graph, cut: Sequence[nodes.Node]
) -> list[list[nodes.Node]]:
  """The nodes that have large arrays in common, as those of a layer do."""
  groups: list[tuple[set[int], list[nodes.Node]]] = []
  for node in cut:
    variables, members = {*node.outputs, *_large_inputs(graph, node)}, [node]
    for group in [g for g in groups if g[0] & variables]:
      groups.remove(group)
      variables |= group[0]
      members = group[1] + members
    groups.append((variables, members))
  return [members for _, members in groups]


def _large_inputs(graph: nodes.Graph, node: nodes.Node) -> list[int]:
  """What a node reads that is cut as its result is."""
  shape = graph.shape(node.outputs[0])
  return [v for v in node.inputs if graph.shape(v) == shape]


def _run_whole(group: Sequence[nodes.Node], found: dict[int, Any]) -> None:
  """Adds to the values found those of nodes."""
  for node in group:
    values = node.bind(*(found[v] for v in node.inputs), **node.params)
    found.update(zip(node.outputs, values, strict=True))


def _run_in_blocks(
  graph: nodes.Graph,
  group: Sequence[nodes.Node],
  found: dict[int, Any],
  needed: set[int],
) -> None:
  """Adds those values of nodes of one shape that are needed elsewhere."""
  shape = graph.shape(group[0].outputs[0])
  axis, rows = _blocks(shape)
  made = {v: node for node in group for v in node.outputs}
  inputs = {v for node in group for v in _large_inputs(graph, node)} - {*made}
  places = _places(
    graph, made, [v for v in made if v in needed], inputs - needed
  )

  def run_block(start, size, arrays):
    whole = {**found, **dict(zip(places.values(), arrays, strict=True))}
    cut = lambda value, along: jax.lax.dynamic_slice_in_dim(
      value, start, size, along
    )
    parts = {v: cut(whole[v], axis) for v in inputs}

    def read(variable, axes):
      if variable in parts:
        return parts[variable]
      value = found[variable]
      for along, entries in enumerate(jnp.shape(value)):
        if axes[along] == axis and entries > 1:
          return cut(value, along)
      return value

    for node in group:
      params, axes = node.params, range(len(shape))
      if node.name == 'broadcast_in_dim':
        axes = params['broadcast_dimensions']
        params = {**params, 'shape': (*shape[:axis], size, *shape[axis + 1 :])}
      values = node.bind(*(read(v, axes) for v in node.inputs), **params)
      parts.update(zip(node.outputs, values, strict=True))
    return [
      jax.lax.dynamic_update_slice_in_dim(array, parts[v], start, axis)
      for v, array in zip(places, arrays, strict=True)
    ]

  arrays = [
    jnp.zeros(shape, graph.avals[result].dtype)
    if place is None
    else found[place]
    for result, place in places.items()
  ]
  count, rest = divmod(shape[axis], rows)
  arrays = jax.lax.fori_loop(
    0, count, lambda i, arrays: run_block(i * rows, rows, arrays), arrays
  )
  if rest:
    arrays = run_block(count * rows, rest, arrays)
  found.update(zip(places, arrays, strict=True))


def _blocks(shape: tuple[int, ...]) -> tuple[int, int]:
  """Which axis is cut, and into blocks of how many rows."""
  count = -(-math.prod(shape) // _BLOCK)
  # Rows of an axis in front lie together in memory.
  axis = next((a for a, size in enumerate(shape) if size >= count), None)
  if axis is None:
    axis = max(range(len(shape)), key=lambda a: shape[a])
  return axis, max(1, shape[axis] // count)


def _places(
  graph: nodes.Graph,
  made: dict[int, nodes.Node],
  results: Sequence[int],
  free: set[int],
) -> dict[int, int | None]:
  """For each result the free input that it is made from in the fewest steps.

  The new weights are written over the weights, and the new moments over the
  moments.
  """
  places: dict[int, int | None] = {}
  for result in results:
    dtype = graph.avals[result].dtype
    fits = {v for v in free if graph.avals[v].dtype == dtype}
    fits -= {*places.values()}
    queue = [result]
    for variable in queue:  # grows meanwhile
      if variable in made:
        queue += [v for v in made[variable].inputs if v not in queue]
    places[result] = next((v for v in queue if v in fits), None)
  return places
