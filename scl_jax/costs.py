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
the model is written in: this module follows each leaf of `params`, and what is
computed from params alone, to the products with the data.
"""

from collections.abc import Callable, Iterator, Sequence
import math
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

from scl_jax import tree as tree_lib
from scl_jax.graph import layering

PyTree = tree_lib.PyTree


def costs(fn: Callable[..., Any], params: PyTree, *inputs: Any) -> PyTree:
  """The MACs of one connection of each leaf, in one call of `fn`.

  For the usual MACs of a forward pass for one example, give inputs with a batch
  of one. Counted are `dot_general` and `conv_general_dilated`, padding
  included, the holes of a transposed convolution not; a scan counts as often as
  it runs, of a `cond` the dearest branch. The body of a `while_loop` counts
  once, as its length is not known. A leaf is followed through all that is
  computed from params and constants alone, `weights * masks` say; a mask that
  varies belongs into `params`, not among the inputs.

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
  sizes = [math.prod(jnp.shape(leaf)) for leaf in leaves]
  jaxpr = jax.make_jaxpr(fn)(params, *inputs).jaxpr
  origins = dict(zip(jaxpr.invars, range(len(leaves)), strict=False))
  data = set(jaxpr.invars[len(leaves) :])
  macs = [0.0] * len(leaves)
  for index, count in _products(jaxpr, origins, data, sizes):
    macs[index] += count
  return jax.tree.unflatten(
    treedef, [m / max(1, size) for m, size in zip(macs, sizes, strict=True)]
  )


def _products(
  jaxpr: core.Jaxpr,
  origins: dict[Any, int],
  data: set[Any],
  sizes: list[int],
) -> Iterator[tuple[int, float]]:
  """Yields (leaf, MACs) for each product that a leaf enters.

  `origins` maps variables to the leaves that they come from, `data` holds the
  variables that depend on the inputs; both are extended.
  """
  for eqn in jaxpr.eqns:
    name = eqn.primitive.name
    variables = [v for v in eqn.invars if not isinstance(v, core.Literal)]
    found = {origins[v] for v in variables if v in origins}
    has_data = any(v in data for v in variables)
    bodies = _bodies(eqn)
    if bodies:
      options = [list(_call(eqn, b, origins, data, sizes)) for b in bodies]
      repeats = eqn.params['length'] if name == 'scan' else 1
      for index, count in max(options, key=lambda o: sum(c for _, c in o)):
        yield index, repeats * count
      continue
    if name in ('dot_general', 'conv_general_dilated'):
      for index in found:
        yield index, _macs(eqn)
    if found and not has_data:
      # A mask that is a leaf of its own is not larger than the weights.
      largest = max(sorted(found), key=lambda index: sizes[index])
      origins.update(dict.fromkeys(eqn.outvars, largest))
    if has_data:
      data.update(eqn.outvars)


def _call(
  eqn: core.JaxprEqn,
  body: core.Jaxpr,
  origins: dict[Any, int],
  data: set[Any],
  sizes: list[int],
) -> Iterator[tuple[int, float]]:
  """`_products` of a body; `origins` and `data` get what it returns."""
  # Leading operands that the body does not see, such as a predicate.
  operands = eqn.invars[len(eqn.invars) - len(body.invars) :]
  pairs = [
    (inner, outer)
    for inner, outer in zip(body.invars, operands, strict=True)
    if not isinstance(outer, core.Literal)
  ]
  inner_origins = {i: origins[o] for i, o in pairs if o in origins}
  inner_data = {i for i, o in pairs if o in data}
  if inner_data:  # what a loop carries becomes data in the first round
    carried = body.invars[_carried(eqn, body)]
    inner_data.update(v for v in carried if v not in inner_origins)
  yield from _products(body, inner_origins, inner_data, sizes)
  if len(body.outvars) != len(eqn.outvars):
    data.update(eqn.outvars)
    return
  for outer, inner in zip(eqn.outvars, body.outvars, strict=True):
    if isinstance(inner, core.Literal):
      continue
    if inner in inner_origins:
      origins[outer] = inner_origins[inner]
    if inner in inner_data:
      data.add(outer)


def _carried(eqn: core.JaxprEqn, body: core.Jaxpr) -> slice:
  """Which inputs of a loop's body are outputs of its last round."""
  if eqn.primitive.name == 'scan':
    # What a scan slices or stacks has one axis less inside than outside. (Its
    # parameters say the same, with other names in each version of JAX.)
    stop = _same_rank(body.invars, eqn.invars)
    return slice(stop - _same_rank(body.outvars, eqn.outvars), stop)
  if eqn.primitive.name == 'while':
    return slice(eqn.params['body_nconsts'], None)
  return slice(0)


def _same_rank(inside: Sequence[Any], outside: Sequence[Any]) -> int:
  return sum(
    i.aval.ndim == o.aval.ndim for i, o in zip(inside, outside, strict=True)
  )


def _macs(eqn: core.JaxprEqn) -> float:
  variables: list[Any] = [*eqn.invars[:2], eqn.outvars[0]]
  shapes = [v.aval.shape for v in variables]
  return float(layering.macs(eqn.primitive.name, eqn.params, *shapes))


def _bodies(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
  """The jaxprs that an equation calls; more than one for a `cond`."""
  values = eqn.params.items()
  return [
    jaxpr
    for key, value in values
    if key != 'cond_jaxpr'
    for item in (value if isinstance(value, (tuple, list)) else (value,))
    for jaxpr in [item.jaxpr if isinstance(item, core.ClosedJaxpr) else item]
    if isinstance(jaxpr, core.Jaxpr) and len(jaxpr.invars) <= len(eqn.invars)
  ]
