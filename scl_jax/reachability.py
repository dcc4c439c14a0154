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
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scl_jax import graph as graph_lib
from scl_jax import tree as tree_lib
from scl_jax.graph import elementwise

PyTree = tree_lib.PyTree

# Names of primitives. What is missing here, and not elementwise, is not known.
_ZERO_STAYS = ('neg', 'convert_element_type', 'copy', 'abs', 'sign', 'add')
_ZERO_STAYS += ('sub', 'reduce_precision', 'square', 'add_any')
_LINEAR = ('reshape', 'transpose', 'broadcast_in_dim', 'squeeze', 'slice')
_LINEAR += ('rev', 'expand_dims')
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
    values = {v: _constant(value) for v, value in graph.constants.items()}
    values |= {v: _Value(jnp.ones(graph.shape(v)), True) for v in graph.inputs}
    rows = tree_lib.zip_leaves(params, gates)
    for variable, (_, _, gate) in zip(graph.leaves, rows, strict=True):
      values[variable] = (
        _Value(jnp.ones(graph.shape(variable)), False)
        if gate is None
        else _Value(gate, False, True)
      )
    for node in graph.nodes:
      operands = [values[v] for v in node.inputs]
      for variable in node.outputs:
        result = _apply(node, graph.shape(variable), operands)
        values[variable] = result._replace(array=_saturate(result.array))
    outputs = [values[v] for v in graph.outputs]
    return [out.array for out in outputs if out.is_data or out.is_masked]

  outputs, pull = jax.vjp(paths, gates)
  (found,) = pull([jnp.ones_like(o) for o in outputs])
  return jax.tree.map(lambda f, g: (f > 0) & (g > 0), found, gates)


@jax.custom_vjp
def _saturate(x):
  """1 where positive; gradients too, which then cannot over- or underflow."""
  return (x > 0).astype(jnp.float32)


_saturate.defvjp(
  lambda x: (_saturate(x), None),
  lambda _, g: ((g > 0).astype(jnp.float32),),
)


def _constant(value: Any) -> _Value:
  if jnp.issubdtype(jnp.result_type(value), jnp.number):
    return _Value(jnp.asarray(value != 0, jnp.float32), False)
  return _Value(jnp.ones(jnp.shape(value)), False)


def _apply(
  node: graph_lib.Node, shape: tuple[int, ...], operands: list[_Value]
) -> _Value:
  name = node.name
  arrays = [v.array for v in operands]
  is_data = any(v.is_data for v in operands)
  is_masked = any(v.is_masked for v in operands)
  both_data = all(v.is_data for v in operands)

  def result(array):
    return _Value(jnp.broadcast_to(array, shape), is_data, is_masked)

  if name in _LINEAR and len(operands) == 1:
    return result(*node.bind(arrays[0], **node.params))
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
  if name in elementwise.NAMES:
    if name == 'mul' and not both_data:
      return result(arrays[0] * arrays[1])
    if is_data:
      # A constant brings nothing, unless it is made of prunable weights.
      return result(sum(v.array for v in operands if v.is_data or v.is_masked))
    if name in _ZERO_STAYS:
      return result(sum(arrays))
  # Not known: all of the output depends on all that there is.
  weights = 1 + sum(jnp.sum(v.array) for v in operands if not v.is_data)
  if is_data:
    weights *= sum(jnp.sum(v.array) for v in operands if v.is_data)
  return result(weights)
