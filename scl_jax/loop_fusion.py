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
"""A step of an optimizer as results that XLA can write in one loop on a CPU.

What an optimizer does takes as long as the memory that it moves. XLA writes
several results in one loop over memory on a CPU only if it is told to, by

    XLA_FLAGS=--xla_backend_extra_options=xla_cpu_use_multi_output_fusion

and only results that do not need one another. Those of a step do: weights need
moments, and what two results need is stored for both. `separately` computes
each result from the inputs alone. What several of them need is then computed
for each, while memory is waited for, and XLA makes one loop of it all.

To XLA two equal computations are one. So each has its own 1, which XLA takes
for any number, as a factor of the arrays that it reads.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any, TypeVar

import jax
from jax.extend import core
import jax.numpy as jnp

from scl_jax import equations

T = TypeVar('T')

# Entries. Smaller arrays stay in a core's cache from one loop to the next.
_SMALLEST = 2**18
# Factors that are one operand of a loop: XLA adds nothing to one that has 20.
_BLOCK = 1024


def separately(fn: Callable[..., T]) -> Callable[..., T]:
  """A function whose large elementwise results do not need one another.

  The results are equal up to rounding. What is not elementwise (sums, branches,
  loops) is computed once. Only where `xla_options.joins_loops` this pays: else
  each result becomes a loop of its own. Where results are of several floating
  point dtypes, which XLA does not join, the function is left as it is.

  Args:
    fn: A function of pytrees of arrays that JAX can trace.

  Returns:
    A function of the same arguments and results.

  Example:
    >>> def momentum(gradient, trace):
    ...   trace = 0.9 * trace + gradient
    ...   return -0.1 * trace, trace
    >>> step = jax.jit(separately(momentum))
  """

  @functools.wraps(fn)
  def run(*args):
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(*args)
    large = [v.aval.dtype for v in closed.jaxpr.outvars if _is_large(v.aval)]
    if len({dtype for dtype in large if _is_inexact(dtype)}) > 1:
      return fn(*args)  # XLA joins loops of one dtype alone
    copies = _Copies()
    results = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args), copies)
    return jax.tree.unflatten(
      jax.tree.structure(out_shape), map(copies.finish, results)
    )

  return run


@dataclasses.dataclass(eq=False)
class _Later:
  """The result of an elementwise equation that is computed where it is needed.

  Attributes:
    eqn: The equation.
    operands: Arrays, literals and others of this kind.
    order: Behind that of its operands.
    is_computed: Whether it was, for any result.
    result: What everything else reads, once it is finished.
  """

  eqn: core.JaxprEqn
  operands: Sequence[Any]
  order: int
  is_computed: bool = False
  result: jax.Array | None = None

  def parts(self) -> list['_Later']:
    """It and all that it is made of, operands first."""
    found: set[_Later] = {self}
    to_visit: list[_Later] = [self]
    while to_visit:
      for operand in to_visit.pop().operands:
        if isinstance(operand, _Later) and operand not in found:
          found.add(operand)
          to_visit.append(operand)
    return sorted(found, key=lambda part: part.order)


class _Copies:
  """Computes each result in a copy that shares nothing with another one."""

  def __init__(self):
    self.order = itertools.count()
    self._factors = _ones()

  def finish(self, value: Any) -> Any:
    """The array that a value stands for."""
    if not isinstance(value, _Later):
      return value
    if value.result is None:
      parts = value.parts()
      is_again = any(part.is_computed for part in parts)
      factor = next(self._factors) if is_again else None
      made: dict[Any, jax.Array] = {}  # of parts, and of arrays by their id

      def operand(given):
        if isinstance(given, _Later):
          return made[given]
        if factor is None or not _is_scalable(given):
          return given
        if id(given) not in made:
          made[id(given)] = given * factor.astype(given.dtype)
        return made[id(given)]

      for part in parts:
        operands = [operand(given) for given in part.operands]
        with part.eqn.ctx.manager:
          made[part] = part.eqn.primitive.bind(*operands, **part.eqn.params)
        part.is_computed = True
      value.result = made[value]
    return value.result


def _ones() -> Iterator[jax.Array]:
  """1s that are to XLA as many numbers."""
  for block in itertools.count():
    # A number beside them, or XLA would take two blocks for one.
    both = jnp.ones(_BLOCK), jnp.float32(block)
    ones, _ = jax.lax.optimization_barrier(both)
    for index in range(_BLOCK):
      yield ones[index]


def _run(
  jaxpr: core.Jaxpr, consts: Iterable[Any], args: Iterable[Any], copies: _Copies
) -> list[Any]:
  """The results of a jaxpr, of which some are to be finished."""
  values = dict(zip(jaxpr.constvars, consts, strict=True))
  values.update(zip(jaxpr.invars, args, strict=True))

  def read(atom):
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for eqn in jaxpr.eqns:
    held, held_consts = equations.body(eqn)
    if held is not None:
      results = _run(held, held_consts, map(read, eqn.invars), copies)
    elif _is_elementwise(eqn):
      operands = [read(v) for v in eqn.invars]
      results = [_Later(eqn, operands, next(copies.order))]
    else:
      bind, atoms = equations.binder(eqn)
      operands = [copies.finish(read(v)) for v in atoms]
      with eqn.ctx.manager:
        results = bind(*operands, **eqn.params)
    values.update(zip(eqn.outvars, results, strict=True))
  return [read(v) for v in jaxpr.outvars]


def _is_elementwise(eqn: core.JaxprEqn) -> bool:
  name = eqn.primitive.name
  is_known = name in equations.ELEMENTWISE or name == 'broadcast_in_dim'
  return is_known and _is_large(eqn.outvars[0].aval)


def _is_scalable(operand: Any) -> bool:
  """Whether it is a large array whose dtype a factor does not change."""
  is_weak = getattr(operand, 'weak_type', False)
  return _is_large(operand) and not is_weak and _is_inexact(operand.dtype)


def _is_inexact(dtype: Any) -> bool:
  return jnp.issubdtype(dtype, jnp.inexact)


def _is_large(array: Any) -> bool:
  shape = getattr(array, 'shape', ())
  return bool(shape) and math.prod(shape) >= _SMALLEST
