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
"""Which live connections are on a path from the inputs to the output.

The graph of a model is evaluated on what depends on what: 1 where a value
depends on the inputs, else 0. A mask stands for its weight, a product passes on
what both sides allow, a bias brings nothing, as it is a constant. The same
graph backwards says which weights the output hears of. Where an operation is
not known, everything depends on everything: a path may be seen where there is
none, but none is overlooked (our derivation).

`reached` asks the same of any function, entry by entry of its inputs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scl_jax import equations
from scl_jax import graph as graph_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

# Names of primitives. What is missing here, and not elementwise, is not known.
_ZERO_STAYS = ('neg', 'convert_element_type', 'copy', 'abs', 'sign', 'add')
_ZERO_STAYS += ('sub', 'reduce_precision', 'square', 'add_any')
_MOVES = ('reshape', 'transpose', 'broadcast_in_dim', 'squeeze', 'slice')
_MOVES += ('rev', 'expand_dims', 'concatenate', 'pad', 'split')
_MOVES += ('stack', 'unstack', 'tile')
_REDUCTIONS = ('reduce_sum', 'reduce_max', 'reduce_min')
_WINDOWS = ('reduce_window_sum', 'reduce_window_max', 'reduce_window_min')
_PRODUCTS = ('dot_general', 'conv_general_dilated')


class _Value(NamedTuple):
  """What may be other than 0 (weights), or depends on the inputs (data)."""

  array: jax.Array
  is_data: bool
  is_masked: bool = False  # computed from a mask: never ignored


def on_path(
  fn: Callable[..., Any], params: PyTree, inputs: Sequence[Any], masks: PyTree
) -> PyTree:
  """Which live connections are on a path from the inputs to the output.

  Args:
    fn: The model, a function `fn(params, *inputs)`.
    params: Any pytree of arrays.
    inputs: Arrays or `jax.ShapeDtypeStruct`; their values do not matter.
    masks: Masks of the weights' shapes, `None` where not prunable.

  Returns:
    A tree like `masks` of bool arrays; what is in a loop counts as on a path.

  Example:
    >>> masks = {'a': jnp.array([[1.0, 1.0]]), 'b': jnp.array([[1.0], [0.0]])}
    >>> fn = lambda p, x: jnp.tanh(x @ p['a']) @ p['b']
    >>> on_path(fn, masks, [jnp.ones((1, 1))], masks)['a']
    Array([[ True, False]], dtype=bool)
  """
  graph = graph_lib.trace(fn, params, *inputs)
  gates = jax.tree.map(lambda m: (m != 0).astype(jnp.float32), masks)

  def paths(gates):
    values = {v: _Value(_ones(graph.shape(v)), True) for v in graph.inputs}
    rows = tree_lib.zip_leaves(params, gates)
    for variable, (_, _, gate) in zip(graph.leaves, rows, strict=True):
      values[variable] = (
        _Value(_ones(graph.shape(variable)), False)
        if gate is None
        else _Value(gate, False, True)
      )
    outputs = _evaluate(graph, values)
    return [out.array for out in outputs if out.is_data or out.is_masked]

  outputs, pull = jax.vjp(paths, gates)
  (found,) = pull([jnp.ones_like(o) for o in outputs])
  return jax.tree.map(lambda f, g: (f > 0) & (g > 0), found, gates)


def reached(
  fn: Callable[..., Any], inputs: Sequence[Any], marks: Sequence[Any]
) -> Any:
  """Which entries of the results depend on marked entries of the inputs.

  Args:
    fn: A function `fn(*inputs)`.
    inputs: Pytrees of arrays or `jax.ShapeDtypeStruct`; their values do not
      matter.
    marks: Arrays of {0, 1} in trees like `inputs`, 1 where marked.

  Returns:
    A tree like the results of bool arrays.

  Example:
    >>> fn = lambda x: jnp.concatenate([x[1:], jnp.ones(2)])
    >>> reached(fn, [jnp.ones(3)], [jnp.array([0.0, 0.0, 1.0])])
    Array([False,  True, False, False], dtype=bool)
  """
  graph = graph_lib.trace(lambda _, *inputs: fn(*inputs), (), *inputs)
  leaves = jax.tree.leaves(tuple(marks))
  values = {
    v: _Value(jnp.asarray(mark, jnp.float32), True)
    for v, mark in zip(graph.inputs, leaves, strict=True)
  }
  return jax.tree.unflatten(
    graph.out_tree,
    [(out.array > 0) & out.is_data for out in _evaluate(graph, values)],
  )


@jax.custom_vjp
def _saturate(x):
  """1 where positive; gradients too, which then cannot over- or underflow."""
  return (x > 0).astype(jnp.float32)


_saturate.defvjp(
  lambda x: (_saturate(x), None),
  lambda _, g: ((g > 0).astype(jnp.float32),),
)


def _evaluate(
  graph: graph_lib.Graph, values: dict[int, _Value]
) -> list[_Value]:
  """The results, from the values of leaves and inputs."""
  values |= {v: _constant(value) for v, value in graph.constants.items()}
  for node in graph.nodes:
    shapes = [graph.shape(v) for v in node.outputs]
    results = _apply(node, shapes, [values[v] for v in node.inputs])
    for variable, result in zip(node.outputs, results, strict=True):
      values[variable] = result._replace(array=_saturate(result.array))
  return [values[v] for v in graph.outputs]


def _constant(value: Any) -> _Value:
  if jnp.issubdtype(jnp.result_type(value), jnp.number):
    return _Value(jnp.asarray(value != 0, jnp.float32), False)
  return _Value(_ones(jnp.shape(value)), False)


def _ones(shape: tuple[int, ...]) -> jax.Array:
  return jnp.ones(shape, jnp.float32)


def _apply(
  node: graph_lib.Node,
  shapes: Sequence[tuple[int, ...]],
  operands: Sequence[_Value],
) -> list[_Value]:
  name = node.name
  arrays = [v.array for v in operands]
  is_data = any(v.is_data for v in operands)
  is_masked = any(v.is_masked for v in operands)
  both_data = all(v.is_data for v in operands)

  def result(*arrays):
    """Of all results alike, or one for each."""
    arrays = arrays * len(shapes) if len(arrays) == 1 else arrays
    return [
      _Value(jnp.broadcast_to(array, shape), is_data, is_masked)
      for array, shape in zip(arrays, shapes, strict=True)
    ]

  def bring(value):
    """Constants bring nothing to data, unless made of prunable weights."""
    is_heard = not is_data or value.is_data or value.is_masked
    return value.array if is_heard else jnp.zeros_like(value.array)

  if name in _MOVES:
    return result(*node.bind(*map(bring, operands), **node.params))
  if name in _REDUCTIONS:
    return result(jnp.sum(arrays[0], node.params['axes']))
  if name in _WINDOWS:
    return result(
      jax.lax.reduce_window(
        arrays[0],
        0.0,
        jax.lax.add,
        node.params['window_dimensions'],
        node.params['window_strides'],
        node.params['padding'],
        node.params['base_dilation'],
        node.params['window_dilation'],
      )
    )
  if name in _PRODUCTS and not both_data:
    options = {**node.params, 'preferred_element_type': None}
    return result(*node.bind(*arrays, **options))
  if name in equations.ELEMENTWISE:
    if name == 'mul' and not both_data:
      return result(arrays[0] * arrays[1])
    if is_data or name in _ZERO_STAYS:
      return result(sum(map(bring, operands)))
  # Not known: all of the output depends on all that there is.
  weights = 1 + sum(jnp.sum(v.array) for v in operands if not v.is_data)
  if is_data:
    weights *= sum(jnp.sum(v.array) for v in operands if v.is_data)
  return result(weights)
