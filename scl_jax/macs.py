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

import collections
from collections.abc import Callable, Sequence
import enum
import math
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

from scl_jax import checks
from scl_jax import tree as tree_lib
from scl_jax.graph import layering
from scl_jax.graph import origins
from scl_jax.graph import scans

PyTree = tree_lib.PyTree


class _Kind(enum.Enum):
  CONSTANT = enum.auto()
  DATA = enum.auto()


# What a variable is computed from: constants, params, or inputs.
_Source = origins.Origin | _Kind
# By the operands that share them alike: of each the positions of its leaves,
# which share by their sizes.
_Macs = collections.Counter[tuple[tuple[int, ...], ...]]

# A loop's predicate; what a scatter does to two scalars.
_NO_BODIES = ('cond_jaxpr', 'update_jaxpr', 'select_jaxpr', 'scatter_jaxpr')


def costs(fn: Callable[..., Any], params: PyTree, *inputs: Any) -> PyTree:
  """The MACs of one connection of each leaf, in one call of `fn`.

  For the usual MACs of a forward pass for one example, give inputs with a batch
  of one. Counted are `dot_general` and `conv_general_dilated`, padding
  included, the holes of a transposed convolution not; a scan counts as often as
  it runs, of a `cond` the dearest branch. The body of a `while_loop` counts
  once, as its length is not known. A leaf is followed through all that is
  computed from params and constants alone, `weights * masks` say, where the
  largest leaf counts; kernels that are concatenated share by their sizes. A
  mask that varies belongs into `params`, not among the inputs.

  Each product counts once, that of data with data for no leaf. Where params
  alone determine both operands, one is activations, with no cost: it has been
  through a product, or else its leaf has fewer axes longer than 1, such as a
  bias or a learned start of a scan. If neither is more so than the other, as in
  `a @ b` of a low-rank addition, the two leaves share the product equally.

  Args:
    fn: A function `fn(params, *inputs)`, such as a model's forward pass.
    params: Any pytree of arrays or `jax.ShapeDtypeStruct`.
    *inputs: Arrays or `jax.ShapeDtypeStruct`; nothing is computed.

  Returns:
    A tree like `params` of floats: MACs of the leaf's products, divided by its
    number of entries; 0.0 where a leaf has no product.

  Example:
    >>> params = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}
    >>> costs(lambda p, x: x @ p['w'] + p['b'], params, jnp.ones((1, 3)))
    {'b': 0.0, 'w': 1.0}
  """
  leaves, treedef = jax.tree.flatten(params)
  shapes = [jnp.shape(leaf) for leaf in leaves]
  checks.check_fn(fn)
  jaxpr = jax.make_jaxpr(fn)(params, *inputs).jaxpr
  given = [origins.Origin(i, shape) for i, shape in enumerate(shapes)]
  data = [_Kind.DATA] * (len(jaxpr.invars) - len(given))
  macs, _ = _walk(jaxpr, [*given, *data])
  totals = [0.0] * len(leaves)
  sizes = [max(1, math.prod(shape)) for shape in shapes]
  for sharing, count in macs.items():
    for joined in sharing:
      entries = sum(sizes[leaf] for leaf in joined) * len(sharing)
      for leaf in joined:
        totals[leaf] += count * sizes[leaf] / entries
  return jax.tree.unflatten(
    treedef, [t / n for t, n in zip(totals, sizes, strict=True)]
  )


def _walk(
  jaxpr: core.Jaxpr, given: Sequence[_Source]
) -> tuple[_Macs, list[_Source]]:
  """The MACs of each leaf, and what the results are computed from."""
  macs: _Macs = collections.Counter()
  sources = dict(zip(jaxpr.invars, given, strict=True))

  def read(atoms: Sequence[Any]) -> list[_Source]:
    return [
      _Kind.CONSTANT
      if isinstance(atom, core.Literal)
      else sources.get(atom, _Kind.CONSTANT)
      for atom in atoms
    ]

  for eqn in jaxpr.eqns:
    operands = read(eqn.invars)
    bodies = _bodies(eqn)
    if bodies:
      options = [_run(eqn, body, operands) for body in bodies]
      macs += max((found for found, _ in options), key=lambda m: m.total())
      ends = [results for _, results in options]
      results = [_join(eqn, end) for end in zip(*ends, strict=True)]
    else:
      name = eqn.primitive.name
      found = [o for o in operands if isinstance(o, origins.Origin)]
      if found and name in origins.PRODUCTS:
        weights = origins.of_weights(name, found)
        macs[tuple(map(origins.leaves, weights))] += _macs(eqn)
      results = [_join(eqn, operands)] * len(eqn.outvars)
    sources.update(zip(eqn.outvars, results, strict=True))
  return macs, read(jaxpr.outvars)


def _join(eqn: core.JaxprEqn, operands: Sequence[_Source]) -> _Source:
  """What a result is computed from."""
  if _Kind.DATA in operands:
    return _Kind.DATA
  found = [o for o in operands if isinstance(o, origins.Origin)]
  if not found:
    return _Kind.CONSTANT
  return origins.of_result(eqn.primitive.name, found)


def _run(
  eqn: core.JaxprEqn, body: core.Jaxpr, operands: Sequence[_Source]
) -> tuple[_Macs, list[_Source]]:
  """`_walk` of a body, of a loop's body as if the loop were unrolled."""
  # Without leading operands that the body does not see, such as a predicate.
  given = tuple(operands[len(operands) - len(body.invars) :])
  if len(body.outvars) != len(eqn.outvars):
    return _walk(body, given)[0], [_Kind.DATA] * len(eqn.outvars)
  name = eqn.primitive.name
  carried = range(len(given))[_carried(eqn)]
  kept = len(carried)
  rounds = {'scan': eqn.params.get('length'), 'while': kept + 1}.get(name, 1)
  results = [given[i] for i in carried]
  results += [_Kind.CONSTANT] * (len(eqn.outvars) - kept)
  macs: _Macs = collections.Counter()
  found = macs
  walked = {}  # a loop that swaps what it carries comes back to the same
  while rounds:
    if given not in walked:
      walked[given] = _walk(body, given)
    found, out = walked[given]
    following = list(given)
    for i, source in zip(carried, out, strict=False):
      following[i] = source
    # From here on all rounds are alike.
    repeats = rounds if tuple(following) == given else 1
    for leaves, count in found.items():
      macs[leaves] += repeats * count
    stacked = zip(results[kept:], out[kept:], strict=True)
    results = out[:kept] + [_join(eqn, pair) for pair in stacked]
    given = tuple(following)
    rounds -= repeats
  return (found if name == 'while' else macs), results


def _carried(eqn: core.JaxprEqn) -> slice:
  """Which inputs of a loop's body are outputs of its last round."""
  if eqn.primitive.name == 'scan':
    return scans.carried(eqn)
  if eqn.primitive.name == 'while':
    return slice(eqn.params['body_nconsts'], None)
  return slice(0)


def _macs(eqn: core.JaxprEqn) -> int:
  variables: list[Any] = [*eqn.invars[:2], eqn.outvars[0]]
  shapes = [v.aval.shape for v in variables]
  return layering.macs(eqn.primitive.name, eqn.params, *shapes)


def _bodies(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
  """The jaxprs that an equation calls; more than one for a `cond`."""
  values = eqn.params.items()
  return [
    jaxpr
    for key, value in values
    if key not in _NO_BODIES
    for item in (value if isinstance(value, (tuple, list)) else (value,))
    for jaxpr in [item.jaxpr if isinstance(item, core.ClosedJaxpr) else item]
    if isinstance(jaxpr, core.Jaxpr) and len(jaxpr.invars) <= len(eqn.invars)
  ]
