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
"""Multiply-accumulates (MACs) of each connection, read from the jaxpr.

A connection of a dense layer is used once for an example, one of a convolution
once for each output position. The jaxpr of a model says so, whatever library
the model is written in: this module follows each leaf of `params` through
changes of layout to the products that it enters.
"""

from collections.abc import Callable, Iterator
import math
from typing import Any

import jax
from jax.extend import core

from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

# Primitives whose result holds the entries of one operand, or scales them.
_LAYOUT = frozenset({
    'broadcast_in_dim', 'convert_element_type', 'copy', 'expand_dims', 'mul',
    'optimization_barrier', 'reduce_precision', 'reshape', 'rev', 'sharding_constraint',
    'slice', 'squeeze', 'stop_gradient', 'transpose',
})  # fmt: skip


def costs(fn: Callable[..., Any], params: PyTree, *inputs: Any) -> PyTree:
  """The MACs of one connection of each leaf, in one call of `fn`.

  For the usual MACs of a forward pass for one example, give inputs with a batch
  of one. Counted are `dot_general` and `conv_general_dilated`, padding
  included; a scan counts as often as it runs, of a `cond` the first branch. The
  body of a `while_loop` counts once, as its length is not known.

  Args:
    fn: A function `fn(params, *inputs)`, such as a model's forward pass.
    params: Any pytree of arrays or `jax.ShapeDtypeStruct`.
    *inputs: Arrays or `jax.ShapeDtypeStruct`; nothing is computed.

  Returns:
    A tree like `params` of floats: MACs of the leaf's products, divided by its
    number of entries; 0.0 where a leaf enters no product.

  Example:
    >>> params = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}
    >>> costs(lambda p, x: x @ p['w'] + p['b'], params, jnp.ones((1, 3)))
    {'b': 0.0, 'w': 1.0}
  """
  leaves, treedef = jax.tree.flatten(params)
  closed = jax.make_jaxpr(fn)(params, *inputs)
  origins = {
      var: index
      for index, var in enumerate(closed.jaxpr.invars[: len(leaves)])
  }
  macs = [0.0] * len(leaves)
  for index, count in _products(closed.jaxpr, origins):
    macs[index] += count
  sizes = [max(1, math.prod(leaf.shape)) for leaf in leaves]
  return jax.tree.unflatten(
      treedef, [m / size for m, size in zip(macs, sizes, strict=True)]
  )


def _products(
    jaxpr: core.Jaxpr, origins: dict[Any, int]
) -> Iterator[tuple[int, float]]:
  """Yields (leaf, MACs) for each product that a leaf enters.

  `origins` maps variables to leaves, and is extended by the outputs.
  """
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    found = [
        None if isinstance(v, core.Literal) else origins.get(v)
        for v in eqn.invars
    ]
    if name in ('dot_general', 'conv_general_dilated'):
      for index in {index for index in found[:2] if index is not None}:
        yield index, _macs(eqn)
      continue
    inner = _inner_jaxpr(eqn)
    if inner is not None:
      # Leading operands that the body does not see, such as a predicate.
      operands = found[len(found) - len(inner.invars) :]
      inside = {
          var: index
          for var, index in zip(inner.invars, operands, strict=True)
          if index is not None
      }
      repeats = eqn.params['length'] if name == 'scan' else 1
      for index, count in _products(inner, inside):
        yield index, repeats * count
      if len(inner.outvars) == len(eqn.outvars):
        for outer, var in zip(eqn.outvars, inner.outvars, strict=True):
          if not isinstance(var, core.Literal) and var in inside:
            origins[outer] = inside[var]
    elif name in _LAYOUT:
      leaves = [index for index in found if index is not None]
      if leaves:
        # The mask of weights * masks is no leaf of its own, or a smaller one.
        origins[eqn.outvars[0]] = leaves[0]


def _macs(eqn: core.JaxprEqn) -> float:
  lhs, rhs = (v.aval.shape for v in eqn.invars[:2])
  out = eqn.outvars[0].aval.shape
  dimensions = eqn.params['dimension_numbers']
  if eqn.primitive.name == 'dot_general':
    contracted = dimensions[0][0]
    return float(math.prod(out) * math.prod(lhs[axis] for axis in contracted))
  out_features = rhs[dimensions.rhs_spec[0]]
  return math.prod(out) * math.prod(rhs) / out_features


def _inner_jaxpr(eqn: core.JaxprEqn) -> core.Jaxpr | None:
  for value in eqn.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        item = item.jaxpr
      if isinstance(item, core.Jaxpr) and len(item.invars) <= len(eqn.invars):
        return item
  return None
