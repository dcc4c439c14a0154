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

The jaxpr of a model is evaluated on what depends on what: 1 where a value
depends on the inputs, else 0. A mask stands for its weight, a product passes on
what both sides allow, a bias brings nothing, as it is a constant. The same
graph backwards says which weights the output hears of. Where an operation is
not known, everything depends on everything: a path may be seen where there is
none, but none is overlooked (our derivation).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
import jax.numpy as jnp

from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

# Names of primitives. What is missing here is treated as not known.
_ZERO_STAYS = ('neg', 'convert_element_type', 'copy', 'abs', 'sign', 'add')
_ZERO_STAYS += ('sub', 'reduce_precision', 'square', 'add_any')
_ELEMENTWISE = (*_ZERO_STAYS, 'mul', 'div', 'max', 'min', 'tanh', 'logistic')
_ELEMENTWISE += ('exp', 'exp2', 'expm1', 'log', 'log1p', 'sqrt', 'rsqrt', 'erf')
_ELEMENTWISE += ('integer_pow', 'pow', 'select_n', 'clamp', 'sin', 'cos', 'lt')
_ELEMENTWISE += ('gt', 'le', 'ge', 'eq', 'ne', 'and', 'or', 'not', 'is_finite')
_LINEAR = ('reshape', 'transpose', 'broadcast_in_dim', 'squeeze', 'slice')
_LINEAR += ('rev', 'expand_dims')
_REDUCTIONS = ('reduce_sum', 'reduce_max', 'reduce_min')
_WINDOWS = ('reduce_window_sum', 'reduce_window_max', 'reduce_window_min')
_PRODUCTS = ('dot_general', 'conv_general_dilated')
_CALLS = ('jit', 'pjit', 'closed_call', 'remat', 'checkpoint', 'remat2')
_CALLS += ('custom_jvp_call', 'custom_vjp_call', 'custom_vjp_call_jaxpr')


class _Node(NamedTuple):
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
  closed = jax.make_jaxpr(fn)(params, *inputs)
  rows = tree_lib.zip_leaves(params, masks)
  gates = jax.tree.map(lambda m: (m != 0).astype(jnp.float32), masks)

  def paths(gates):
    fitted = [row[2] for row in tree_lib.zip_leaves(params, gates)]
    nodes = [
      _Node(jnp.ones(jnp.shape(leaf)), False)
      if gate is None
      else _Node(gate, False, True)
      for (_, leaf, _), gate in zip(rows, fitted, strict=True)
    ]
    nodes += [
      _Node(jnp.ones(aval.shape), True)
      for aval in closed.in_avals[len(nodes) :]
    ]
    outputs = _evaluate(closed.jaxpr, closed.consts, nodes)
    return [n.array for n in outputs if n.is_data or n.is_masked]

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


def _evaluate(
  jaxpr: core.Jaxpr, consts: Sequence[Any], nodes: Sequence[_Node]
) -> list[_Node]:
  known = dict(zip(jaxpr.constvars, map(_constant, consts), strict=True))
  known.update(zip(jaxpr.invars, nodes, strict=True))

  def read(v):
    return _constant(v.val) if isinstance(v, core.Literal) else known[v]

  for eqn in jaxpr.eqns:
    operands = [read(v) for v in eqn.invars]
    body = _body(eqn)
    if body is not None:
      outputs = _evaluate(body.jaxpr, body.consts, operands)
    else:
      avals: list[Any] = [v.aval for v in eqn.outvars]
      outputs = [_apply(eqn, aval.shape, operands) for aval in avals]
    outputs = [n._replace(array=_saturate(n.array)) for n in outputs]
    known.update(zip(eqn.outvars, outputs, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _constant(value: Any) -> _Node:
  if jnp.issubdtype(jnp.result_type(value), jnp.number):
    return _Node(jnp.asarray(value != 0, jnp.float32), False)
  return _Node(jnp.ones(jnp.shape(value)), False)


def _body(eqn: core.JaxprEqn) -> Any:
  if eqn.primitive.name not in _CALLS:
    return None
  for value in eqn.params.values():
    if isinstance(value, core.Jaxpr):
      value = core.ClosedJaxpr(value, ())
    if isinstance(value, core.ClosedJaxpr) and (
      len(value.jaxpr.invars) == len(eqn.invars)
    ):
      return value
  return None


def _apply(
  eqn: core.JaxprEqn, shape: tuple[int, ...], nodes: list[_Node]
) -> _Node:
  name = eqn.primitive.name
  arrays = [n.array for n in nodes]
  is_data = any(n.is_data for n in nodes)
  is_masked = any(n.is_masked for n in nodes)
  both_data = all(n.is_data for n in nodes)

  def node(array):
    return _Node(jnp.broadcast_to(array, shape), is_data, is_masked)

  if name in _LINEAR and len(nodes) == 1:
    return node(eqn.primitive.bind(arrays[0], **eqn.params))
  if name in _REDUCTIONS:
    return node(jnp.sum(arrays[0], eqn.params['axes']))
  if name in _WINDOWS:
    return node(
      jax.lax.reduce_window(
        arrays[0],
        0.0,
        jax.lax.add,
        eqn.params['window_dimensions'],
        eqn.params['window_strides'],
        eqn.params['padding'],
        eqn.params['base_dilation'],
        eqn.params['window_dilation'],
      )
    )
  if name in _PRODUCTS and not both_data:
    options = {**eqn.params, 'preferred_element_type': None}
    return node(eqn.primitive.bind(*arrays, **options))
  if name in _ELEMENTWISE:
    if name == 'mul' and not both_data:
      return node(arrays[0] * arrays[1])
    if is_data:
      # A constant brings nothing, unless it is made of prunable weights.
      return node(sum(n.array for n in nodes if n.is_data or n.is_masked))
    if name in _ZERO_STAYS:
      return node(sum(arrays))
  # Not known: all of the output depends on all that there is.
  weights = 1 + sum(jnp.sum(n.array) for n in nodes if not n.is_data)
  if is_data:
    weights *= sum(jnp.sum(n.array) for n in nodes if n.is_data)
  return node(weights)
