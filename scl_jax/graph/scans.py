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

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core
import jax.numpy as jnp

from scl_jax import equations

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
  place = carried(eqn)
  num_carry = place.stop - place.start
  order = range(eqn.params['length'])
  if eqn.params['reverse']:
    order = reversed(order)

  def run(*values):
    consts, stacks = values[: place.start], values[place.stop :]
    carry, rows = values[place], {}
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


def carried(eqn: core.JaxprEqn) -> slice:
  """Which inputs of a scan's step are results of the step before.

  Args:
    eqn: A `scan`.

  Returns:
    A slice; before it is what all steps share, behind it what is cut in slices.
  """
  # What a scan slices or stacks has one axis less inside than outside. (Its
  # parameters say the same, with other names in each version of JAX.)
  body = eqn.params['jaxpr'].jaxpr
  stop = _same_rank(body.invars, eqn.invars)
  return slice(stop - _same_rank(body.outvars, eqn.outvars), stop)


def _same_rank(inside: Sequence[Any], outside: Sequence[Any]) -> int:
  return sum(
    i.aval.ndim == o.aval.ndim for i, o in zip(inside, outside, strict=True)
  )


def _size(jaxpr: core.Jaxpr) -> int:
  """The equations of a jaxpr, those of its calls and loops included."""
  return len(jaxpr.eqns) + sum(
    eqn.params.get('length', 1) * _size(body)
    for eqn in jaxpr.eqns
    for body in equations.bodies(eqn.params)
  )
