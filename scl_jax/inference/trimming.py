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
"""What of a graph is left to compute when the params are known."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from scl_jax import tree as tree_lib
from scl_jax.graph import nodes
from scl_jax.inference import errors

PyTree = tree_lib.PyTree

# The same values, for inference.
SAME = ('copy', 'name', 'optimization_barrier', 'stop_gradient')


@dataclasses.dataclass(frozen=True)
class Trimmed:
  """The nodes that depend on inputs, and that outputs depend on.

  Attributes:
    nodes: In order, without those that only pass a value on.
    inputs: The variables of the inputs.
    outputs: The variables that are returned.
    constants: What the nodes and outputs need of what depends on params alone.
      Broadcast axes have stride 0.
    avals: Shapes and dtypes of the variables.
    uses: For each variable the positions of the nodes that read it, and `None`
      for each output that it is.
    out_tree: The structure of what is returned.
  """

  nodes: list[nodes.Node]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  constants: Mapping[int, np.ndarray]
  avals: Sequence[Any]
  uses: Mapping[int, list[int | None]]
  out_tree: Any

  def shape(self, variable: int) -> tuple[int, ...]:
    """The shape of a variable."""
    return self.avals[variable].shape


def trim(graph: nodes.Graph, params: PyTree) -> Trimmed:
  """Evaluates what does not depend on inputs, and leaves out what nobody reads.

  Args:
    graph: From `nodes.trace`.
    params: The values of its leaves.

  Returns:
    What is left.

  Raises:
    UnsupportedError: If what is left handles random keys.
  """
  names = _names(graph)
  known = graph.from_params()
  outputs = tuple(names.get(v, v) for v in graph.outputs)
  needed, kept = set(outputs), []
  for node in reversed(graph.nodes):
    if node.outputs[0] in names or not needed.intersection(node.outputs):
      continue
    if all(v in known for v in node.inputs):
      continue
    for variable in (*node.inputs, *node.outputs):
      if not isinstance(graph.avals[variable].dtype, np.dtype):
        raise errors.unsupported(node, ' on random keys')
    node = node._replace(inputs=tuple(names.get(v, v) for v in node.inputs))
    needed.update(node.inputs)
    kept.append(node)
  kept.reverse()
  uses: dict[int, list[int | None]] = {v: [] for v in needed}
  for index, node in enumerate(kept):
    for variable in node.inputs:
      uses[variable].append(index)
  for variable in outputs:
    uses[variable].append(None)
  constants = _constants(graph, params, sorted(needed & known))
  return Trimmed(
    kept, graph.inputs, outputs, constants, graph.avals, uses, graph.out_tree
  )


def _names(graph: nodes.Graph) -> dict[int, int]:
  """For each variable that is a copy, of which."""
  names: dict[int, int] = {}
  for node in graph.nodes:
    if node.name in SAME:
      for copied, variable in zip(node.outputs, node.inputs, strict=True):
        names[copied] = names.get(variable, variable)
  return names


def _constants(
  graph: nodes.Graph, params: PyTree, wanted: Sequence[int]
) -> dict[int, np.ndarray]:
  """The values of variables that depend on params alone, in one program."""
  makers = {v: node for node in graph.nodes for v in node.outputs}
  sources = {v: _before_broadcasts(v, makers) for v in wanted}

  @jax.jit
  def evaluate(leaves):
    found = dict(zip(graph.leaves, leaves, strict=True)) | graph.constants
    for node in graph.nodes:
      if all(v in found for v in node.inputs):
        values = node.bind(*(found[v] for v in node.inputs), **node.params)
        found.update(zip(node.outputs, values, strict=True))
    return {v: found[v] for v in sources.values()}

  values = evaluate(jax.tree.leaves(params))
  result = {}
  for variable, source in sources.items():
    value = np.asarray(values[source])
    for node in reversed(_broadcasts(variable, makers)):
      value = broadcast(value, node.params)
    result[variable] = value
  return result


def _broadcasts(
  variable: int, makers: Mapping[int, nodes.Node]
) -> list[nodes.Node]:
  """The broadcasts that make a variable, last one first."""
  found = []
  while (node := makers.get(variable)) and node.name == 'broadcast_in_dim':
    found.append(node)
    variable = node.inputs[0]
  return found


def _before_broadcasts(variable: int, makers: Mapping[int, nodes.Node]) -> int:
  broadcasts = _broadcasts(variable, makers)
  return broadcasts[-1].inputs[0] if broadcasts else variable


def broadcast(value: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
  """`broadcast_in_dim` as a view.

  Args:
    value: Any array.
    params: The primitive's parameters.

  Returns:
    A view with stride 0 along stretched axes.
  """
  shape = [1] * len(params['shape'])
  for axis, size in zip(
    params['broadcast_dimensions'], value.shape, strict=True
  ):
    shape[axis] = size
  return np.broadcast_to(value.reshape(shape), params['shape'])
