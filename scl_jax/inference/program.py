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
"""A network as a list of steps over fixed arrays, for one batch size.

The graph is followed once. Each node either is a view of what is there, or gets
an array and the steps that fill it; products with weights choose among several
ways by timing. To run the network is to fill the inputs, call the steps, and
copy the outputs.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import copying
from scl_jax.inference import errors
from scl_jax.inference import fusing
from scl_jax.inference import layout
from scl_jax.inference import movement
from scl_jax.inference import primitives
from scl_jax.inference import products
from scl_jax.inference import timing
from scl_jax.inference import trimming
from scl_jax.inference import ways

# A sparse way is taken if it needs at most this share of the dense one's time.
GAIN = 1 / 1.15


class Choice(NamedTuple):
  """How a product is run.

  Attributes:
    op: `'dot_general'` or `'conv_general_dilated'`.
    shape: Of its weights, [features, entries].
    density: The share of them that is not 0.
    way: `'dense'`, `'csr'`, `'offset-csr'` or `'offset-csr in parts'`.
    seconds: The time of each way that was tried.
  """

  op: str
  shape: tuple[int, ...]
  density: float
  way: str
  seconds: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Program:
  """A network for inputs of fixed shapes.

  Attributes:
    fill: For each input, what copies it to where the steps read it.
    steps: What is called then, in order.
    outputs: Where the outputs lie then.
    copies: What copies each of them to a contiguous array.
    choices: How each of its products is run.
  """

  fill: Sequence[Callable[[np.ndarray], None]]
  steps: Sequence[products.Step]
  outputs: Sequence[np.ndarray]
  copies: Sequence[Callable[[np.ndarray], None]]
  choices: Sequence[Choice]

  def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs for some inputs.

    Args:
      inputs: Arrays of the shapes of the example inputs.

    Returns:
      New arrays.
    """
    results = [np.empty(x.shape, x.dtype) for x in self.outputs]
    self.write(inputs, results)
    return results

  def write(
    self, inputs: Sequence[np.ndarray], results: Sequence[np.ndarray]
  ) -> None:
    """Writes the outputs for some inputs.

    Args:
      inputs: Arrays of the shapes of the example inputs.
      results: Where to, contiguous.
    """
    for copy, value in zip(self.fill, inputs, strict=True):
      copy(value)
    with np.errstate(all='ignore'):
      for step in self.steps:
        step()
    for copy, result in zip(self.copies, results, strict=True):
      copy(result)


def build(
  graph: trimming.Trimmed,
  inputs: Sequence[np.ndarray],
  choices: Sequence[Choice] | None = None,
) -> Program:
  """Builds a program, and runs it on example inputs meanwhile.

  Args:
    graph: The network.
    inputs: Example inputs.
    choices: Those of another program of this network for such inputs; `None`
      to measure.

  Returns:
    The program.

  Raises:
    UnsupportedError: If there is an operation that is not supported.
  """
  with np.errstate(all='ignore'):
    return _Builder(graph, inputs, choices).program()


class _Builder:
  """Follows a graph, and knows where the value of each variable lies."""

  def __init__(
    self,
    graph: trimming.Trimmed,
    inputs: Sequence[np.ndarray],
    choices: Sequence[Choice] | None,
  ):
    self._graph = graph
    self._known = None if choices is None else iter(choices)
    self._steps: list[products.Step] = []
    self._choices: list[Choice] = []
    self._values = {
      variable: layout.bare(value)
      for variable, value in graph.constants.items()
    }
    for variable, value in zip(graph.inputs, inputs, strict=True):
      target = self._allocate(variable, _batch_last(value.ndim))
      target.array[...] = value
      self._values[variable] = target

  def program(self) -> Program:
    """Adds all nodes."""
    absorbed: set[int] = set()
    for index, node in enumerate(self._graph.nodes):
      if index not in absorbed:
        absorbed |= self._add(index, node)
    inputs, outputs = (
      [self._values[variable].array for variable in variables]
      for variables in (self._graph.inputs, self._graph.outputs)
    )
    return Program(
      [copying.into(array) for array in inputs],
      self._steps,
      outputs,
      [copying.out_of(array) for array in outputs],
      self._choices,
    )

  def _add(self, index: int, node: nodes.Node) -> frozenset[int]:
    """Adds a node; returns which later nodes are done with it."""
    sides = [
      side for side, v in enumerate(node.inputs) if v in self._graph.constants
    ]
    if _is_product(node, sides, [self._graph.avals[v] for v in node.inputs]):
      return self._add_product(index, node, sides[0])
    operands = [self._values[v].array for v in node.inputs]
    parts = movement.parts(node, operands[0])
    if parts is not None:
      self._values.update(
        zip(node.outputs, map(layout.bare, parts), strict=True)
      )
      return frozenset()
    if node.name == 'conv_general_dilated':
      why = _reason(node, sides) or ' of these dtypes'
      raise errors.unsupported(node, why)
    if len(node.outputs) != 1:
      raise errors.unsupported(node)
    (variable,) = node.outputs
    seen = movement.view(node, operands[0])
    if seen is not None:
      self._values[variable] = layout.bare(seen)
    else:
      order = _order(node, operands, self._graph.shape(variable))
      out = self._values[variable] = self._allocate(variable, order)
      self._run(primitives.steps(node, operands, out.array))
    return frozenset()

  def _add_product(
    self, index: int, node: nodes.Node, side: int
  ) -> frozenset[int]:
    """Adds a product and what can be done with it, as is fastest."""
    weights = self._graph.constants[node.inputs[side]]
    operand = self._values[node.inputs[1 - side]]
    shape = self._graph.shape(node.outputs[0])
    if node.name == 'dot_general':
      product = products.of_dot(node, side, weights, operand.array)
    else:
      product = products.of_conv(node, weights, operand, shape)
    self._run(product.copies)

    own = products.feature_axes(node, side, len(shape), weights.ndim)
    epilogue = fusing.epilogue(self._graph, index, own, self._values)
    result = self._allocate(epilogue.result, product.axes)
    other = None
    if epilogue.other is not None:
      other = self._rows_of(product, self._values[epilogue.other].array)
    out, copies = product.rows_of(result.array), []
    if out is None:
      # What reads the result wants it to lie otherwise.
      out, written = _like_result(product, result.array)
      copies = [copying.step(result.array, written)]
    task = ways.task(product, epilogue, out, other)
    self._run([*self._fastest(node.name, task), *copies])
    self._values[epilogue.result] = result
    return epilogue.absorbed

  def _rows_of(
    self, product: products.Product, array: np.ndarray
  ) -> np.ndarray:
    """What is added to a product's result, in its form; a copy if need be."""
    rows = product.rows_of(array)
    if rows is None:
      rows, copied = _like_result(product, array)
      self._run([copying.step(copied, array)])
    return rows

  def _fastest(self, op: str, task: ways.Task) -> list[products.Step]:
    tried = ways.ways(task)
    if self._known is not None:
      choice = next(self._known)
      self._choices.append(choice)
      return tried[choice.way]
    runs = [functools.partial(ways.run, steps) for steps in tried.values()]
    seconds = dict(zip(tried, timing.lower_quartiles(runs), strict=True))
    way = min(seconds, key=lambda way: seconds[way])
    if seconds[way] > GAIN * seconds['dense']:
      way = 'dense'
    density = np.count_nonzero(task.weights) / max(1, task.weights.size)
    choice = Choice(op, task.weights.shape, density, way, seconds)
    self._choices.append(choice)
    return tried[way]

  def _allocate(self, variable: int, order: Sequence[int]) -> layout.Value:
    """An array for a variable, as the first convolution that reads it wants."""
    aval, margins = self._graph.avals[variable], None
    for node in self._convolutions_of(variable):
      order = products.conv_order(node.params['dimension_numbers'].lhs_spec)
      if not products.is_transposed(node):
        margins = products.conv_margins(node)
      break
    return layout.allocate(aval.shape, aval.dtype, order, margins)

  def _convolutions_of(self, variable: int) -> list[nodes.Node]:
    # Nobody reads an input on which nothing depends.
    users = self._graph.uses.get(variable, [])
    read = [self._graph.nodes[user] for user in users if user is not None]
    return [
      node
      for node in read
      if node.name == 'conv_general_dilated' and node.inputs[0] == variable
    ]

  def _run(self, steps: Sequence[products.Step]) -> None:
    ways.run(steps)
    self._steps.extend(steps)


def _like_result(
  product: products.Product, array: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """A new array that lies as a product's result: in its form, and itself."""
  new = layout.allocate(array.shape, array.dtype, product.axes).array
  rows = product.rows_of(new)
  assert rows is not None
  return rows, new


def _is_product(
  node: nodes.Node, sides: Sequence[int], avals: Sequence[Any]
) -> bool:
  """Whether it is a product with weights, of a kind that `products` forms."""
  if len(sides) != 1 or any(aval.dtype != np.float32 for aval in avals):
    return False
  if node.name == 'dot_general':
    return not node.params['dimension_numbers'][1][0]
  return node.name == 'conv_general_dilated' and not _reason(node, sides)


def _reason(node: nodes.Node, sides: Sequence[int]) -> str:
  """What about a node is not supported, of convolutions."""
  if node.name != 'conv_general_dilated':
    return ''
  params = node.params
  if list(sides) != [1]:
    return ' with a kernel that depends on inputs'
  if params['batch_group_count'] != 1:
    return ' with batch groups'
  if len(params['window_strides']) not in (1, 2):
    return f' along {len(params["window_strides"])} axes'
  return ''


def _order(
  node: nodes.Node, operands: Sequence[np.ndarray], shape: Sequence[int]
) -> Sequence[int]:
  """How the result of a primitive shall lie: like its operands do."""
  rank = len(shape)
  if node.name == 'reshape':
    # So that one copy does; that of a contiguous array always does.
    like = layout.allocate(shape, np.uint8, _batch_last(rank)).array
    is_fine = layout.as_view(like, operands[0].shape) is not None
    return _batch_last(rank) if is_fine else range(rank)
  largest = max(operands, key=lambda x: (x.ndim, _memory(x)))
  gone = () if largest.ndim == rank else node.params.get('axes', ())
  left = [axis for axis in range(largest.ndim) if axis not in gone]
  if node.name == 'dot_general' or len(left) != rank:
    return range(rank)
  return [left.index(a) for a in layout.order_of(largest) if a in left]


def _batch_last(rank: int) -> tuple[int, ...]:
  axes = tuple(range(rank))
  return (*axes[1:], *axes[:1])


def _memory(array: np.ndarray) -> int:
  """Entries, those of stretched axes counted once."""
  sizes = zip(array.shape, array.strides, strict=True)
  return math.prod(n for n, stride in sizes if stride)
