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
"""The products of a model with its params, as a list of layers."""

import math
from typing import Any, NamedTuple

from scl_jax.graph import labelling
from scl_jax.graph import nodes
from scl_jax.graph import origins as origins_lib


class Layer(NamedTuple):
  """A product with a leaf of params, or with what is computed from it.

  Attributes:
    path: The leaf's path, such as `'Dense_0/kernel'`.
    leaf: Its position among the leaves.
    op: `'dot_general'` or `'conv_general_dilated'`.
    node: The product's position in `graph.nodes`.
    operand: Which operand the leaf is, 0 or 1.
    in_axes: Axes of the leaf that are summed over.
    out_axes: Axes of the leaf that are axes of the result.
    macs: Multiply-accumulates of the product, padding included; `None` where
      the batch is symbolic.

  What is in neither `in_axes` nor `out_axes` are the taps of a convolution,
  batch axes, and axes that a slice or reshape on the way makes hard to follow.
  """

  path: str
  leaf: int
  op: str
  node: int
  operand: int
  in_axes: tuple[int, ...]
  out_axes: tuple[int, ...]
  macs: int | None


def layers(graph: nodes.Graph) -> list[Layer]:
  """The products of data with params, in the order in which they run.

  A leaf is followed through all that is computed from params and constants
  alone; of several, the largest counts (a mask is not larger than its weights,
  and of kernels that are concatenated one stands for all).

  Args:
    graph: From `trace`.

  Returns:
    One `Layer` for each product; a leaf that is used twice has two.

  Example:
    >>> params = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}
    >>> fn = lambda p, x: x @ p['w'] + p['b']
    >>> (layer,) = layers(nodes.trace(fn, params, jnp.ones((5, 3))))
    >>> layer.path, layer.in_axes, layer.out_axes, layer.macs
    ('w', (0,), (1,), 30)
  """
  body = labelling.label(graph).body
  origins = _origins(graph)
  constant = graph.from_params()
  found = []
  for index, site in enumerate(body.sites):
    node = site.node
    if node.name not in origins_lib.PRODUCTS:
      continue
    sides = [
      side
      for side, variable in enumerate(node.inputs)
      if variable in constant and variable in origins
    ]
    if len(sides) != 1:  # both: no product with data, none: data alone
      continue
    (side,) = sides
    leaf = origins[node.inputs[side]].leaf
    summed = _summed(node, side)
    kept = site.in_labels[side]
    through = {id(ids) for ids in site.out_labels[0] if ids is not None}

    def leaf_axes(chosen, leaf=leaf, kept=kept):
      axes = body.labels[graph.leaves[leaf]]
      wanted = {id(kept[axis]) for axis in chosen if kept[axis] is not None}
      return tuple(a for a, ids in enumerate(axes) if id(ids) in wanted)

    rest = [
      axis
      for axis, ids in enumerate(kept)
      if axis not in summed and id(ids) in through
    ]
    shapes = [graph.shape(v) for v in (*node.inputs, *node.outputs)]
    found.append(
      Layer(
        path=graph.paths[leaf],
        leaf=leaf,
        op=node.name,
        node=index,
        operand=side,
        in_axes=leaf_axes(summed),
        out_axes=leaf_axes(rest),
        macs=macs(node.name, node.params, *shapes)
        if all(isinstance(n, int) for shape in shapes for n in shape)
        else None,
      )
    )
  return found


def macs(
  name: str,
  params: dict[str, Any],
  left: tuple[int, ...],
  right: tuple[int, ...],
  out: tuple[int, ...],
) -> int:
  """The multiply-accumulates of a product, padding included.

  The holes of a transposed convolution are not counted.

  Args:
    name: `'dot_general'` or `'conv_general_dilated'`.
    params: The primitive's parameters.
    left: The shape of the first operand.
    right: That of the second.
    out: That of the result.

  Returns:
    Their number.
  """
  numbers = params['dimension_numbers']
  if name == 'dot_general':
    return math.prod(out) * math.prod(left[axis] for axis in numbers[0][0])
  filters = right[numbers.rhs_spec[0]]
  if not filters:
    return 0
  holes = math.prod(params['lhs_dilation'])
  return math.prod(out) * math.prod(right) // filters // holes


def _origins(graph: nodes.Graph) -> dict[int, origins_lib.Origin]:
  """The leaf that each variable made of params alone comes from."""
  origins = {
    variable: origins_lib.Origin(i, graph.shape(variable))
    for i, variable in enumerate(graph.leaves)
  }
  constant = graph.from_params()
  for node in graph.nodes:
    found = [origins[v] for v in node.inputs if v in origins]
    if found and all(v in constant for v in node.inputs):
      origin = origins_lib.of_result(node.name, found)
      origins.update(dict.fromkeys(node.outputs, origin))
  return origins


def _summed(node: nodes.Node, side: int) -> tuple[int, ...]:
  numbers = node.params['dimension_numbers']
  if node.name == 'dot_general':
    return tuple(numbers[0][side])
  return (numbers.rhs_spec[1] if side else numbers.lhs_spec[1],)
