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
"""Loops of a known length, written out: so that each step can be read.

What is computed stays the same; XLA compiles every step, so this is for short
loops.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

_LONGEST = 1_000  # equations of all steps


def is_short(eqn: core.JaxprEqn) -> bool:
  """Whether a scan is short enough to be written out.

  Args:
    eqn: A `scan`.

  Returns:
    Whether it has steps, and they have at most 1,000 equations in all.
  """
  size = _size(eqn.params['jaxpr'].jaxpr)
  return 0 < eqn.params['length'] * max(size, 1) <= _LONGEST


def written_out(eqn: core.JaxprEqn) -> core.ClosedJaxpr:
  """A scan as what its steps do, one after another.

  Args:
    eqn: A `scan`.

  Returns:
    A jaxpr of the same inputs and outputs.
  """
  step = core.jaxpr_as_fun(eqn.params['jaxpr'])
  num_consts, num_carry = eqn.params['num_consts'], eqn.params['num_carry']
  order = range(eqn.params['length'])
  if eqn.params['reverse']:
    order = reversed(order)

  def run(*values):
    consts, values = values[:num_consts], values[num_consts:]
    carry, stacks = values[:num_carry], values[num_carry:]
    rows = {}
    for index in order:
      slices = [jax.lax.index_in_dim(x, index, keepdims=False) for x in stacks]
      results = step(*consts, *carry, *slices)
      carry, rows[index] = results[:num_carry], results[num_carry:]
    columns = zip(*(rows[index] for index in sorted(rows)), strict=True)
    return *carry, *map(jnp.stack, columns)

  avals: list[Any] = [v.aval for v in eqn.invars]
  return jax.make_jaxpr(run)(
    *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals)
  )


def holds_body(params: Mapping[str, Any]) -> bool:
  """Whether the parameters of a primitive hold what it runs, as a `scan`'s.

  Args:
    params: Of an equation.

  Returns:
    Whether there is a jaxpr among them.
  """
  return any(True for _ in _bodies(params))


def _size(jaxpr: core.Jaxpr) -> int:
  """The equations of a jaxpr, those of its calls included."""
  bodies = (body for eqn in jaxpr.eqns for body in _bodies(eqn.params))
  return len(jaxpr.eqns) + sum(map(_size, bodies))


def _bodies(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item
