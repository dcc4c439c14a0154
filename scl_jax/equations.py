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
"""How to read and run the equations of a jaxpr.

A jaxpr is what JAX makes of a function: a list of equations, each a primitive
with its parameters. Some are calls, which run what they hold.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax.extend import core

CALLS = ('jit', 'pjit', 'closed_call', 'core_call', 'core_closed_call')
CHECKPOINTS = ('checkpoint', 'remat', 'remat2')
CUSTOM = ('custom_jvp_call', 'custom_vjp_call')

# fmt: off
ELEMENTWISE = (
  'abs', 'acos', 'acosh', 'add', 'add_any', 'and', 'asin', 'asinh', 'atan',
  'atan2', 'atanh', 'bessel_i0e', 'bessel_i1e', 'cbrt', 'ceil', 'clamp',
  'convert_element_type', 'copy', 'cos', 'cosh', 'digamma', 'div', 'eq',
  'erf', 'erf_inv', 'erfc', 'exp', 'exp2', 'expm1', 'floor', 'ge', 'gt',
  'integer_pow', 'is_finite', 'le', 'lgamma', 'log', 'log1p', 'logistic',
  'lt', 'max', 'min', 'mul', 'name', 'ne', 'neg', 'nextafter', 'not', 'or',
  'pow', 'reduce_precision', 'rem', 'round', 'rsqrt', 'select_n', 'sign',
  'sin', 'sinh', 'sqrt', 'square', 'stop_gradient', 'sub', 'tan', 'tanh',
  'xor',
)
# fmt: on


def body(eqn: core.JaxprEqn) -> tuple[core.Jaxpr | None, Sequence[Any]]:
  """What a call runs, with its constants.

  Args:
    eqn: Any equation.

  Returns:
    A jaxpr and its constants; `None` for a primitive that stays closed.
  """
  if eqn.primitive.name not in CALLS + CHECKPOINTS + CUSTOM:
    return None, ()
  for key in ('jaxpr', 'call_jaxpr'):
    held = eqn.params.get(key)
    if isinstance(held, core.ClosedJaxpr):
      return held.jaxpr, held.consts
    if isinstance(held, core.Jaxpr) and not held.constvars:
      return held, ()
  return None, ()


def bodies(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
  """The jaxprs among the parameters of an equation.

  Args:
    params: Of an equation.

  Yields:
    What it runs, such as the body of a `scan` or the branches of a `cond`.
  """
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item


def holds_body(params: Mapping[str, Any]) -> bool:
  """Whether there is a jaxpr among the parameters of an equation."""
  return any(True for _ in bodies(params))


def variables(eqn: core.JaxprEqn) -> list[Any]:
  """What an equation reads, without literals and repetitions."""
  found = (v for v in eqn.invars if not isinstance(v, core.Literal))
  return list(dict.fromkeys(found))


def alone(eqn: core.JaxprEqn) -> Callable[..., Sequence[Any]]:
  """A function of `variables(eqn)` that runs one equation."""
  read = variables(eqn)
  jaxpr = core.Jaxpr(
    [],
    read,
    list(eqn.outvars),
    [eqn],
    effects=eqn.effects,
    debug_info=core.DebugInfo(
      'scl_jax',
      eqn.primitive.name,
      ('',) * len(read),
      ('',) * len(eqn.outvars),
    ),
  )
  return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, []))


def binder(
  eqn: core.JaxprEqn,
) -> tuple[Callable[..., Sequence[Any]], Sequence[Any]]:
  """How to run a primitive on its own, and on which variables.

  Args:
    eqn: An equation.

  Returns:
    A function of values and the equation's parameters that gives a list of
    results, and the atoms that the values are of.
  """
  primitive = eqn.primitive
  if holds_body(eqn.params):
    run = alone(eqn)
    return (lambda *values, **_: run(*values)), variables(eqn)
  if primitive.multiple_results:
    return (lambda *values, **p: primitive.bind(*values, **p)), eqn.invars
  return (lambda *values, **p: [primitive.bind(*values, **p)]), eqn.invars
