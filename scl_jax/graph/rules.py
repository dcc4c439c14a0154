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
"""Which rule a primitive follows."""

from collections.abc import Mapping
from typing import Any

from jax import core
import numpy as np

from scl_jax import equations
from scl_jax.graph import elementwise
from scl_jax.graph import lookups
from scl_jax.graph import movement
from scl_jax.graph import nodes
from scl_jax.graph import products
from scl_jax.graph import reductions
from scl_jax.graph import rule as rule_lib

RULES: Mapping[str, rule_lib.Rule] = {
  **dict.fromkeys(equations.ELEMENTWISE, elementwise.RULE),
  **lookups.RULES,
  **movement.RULES,
  **products.RULES,
  **reductions.RULES,
}


# Of finite operands, these may make what is infinite or no number.
# fmt: off
_UNBOUNDED = (
  'acos', 'acosh', 'asin', 'atan2', 'atanh', 'cosh', 'cumlogsumexp', 'digamma',
  'div', 'erf_inv', 'exp', 'exp2', 'expm1', 'integer_pow', 'lgamma', 'log',
  'log1p', 'nextafter', 'pow', 'rem', 'rsqrt', 'sinh', 'sqrt', 'tan',
)
# fmt: on


def is_bounded(node: nodes.Node, constants: Mapping[int, Any]) -> bool:
  """Whether results are finite if operands are, unless sums overflow.

  Args:
    node: The node.
    constants: The values of literals and captured constants.

  Returns:
    A bool; `False` for what is not understood.
  """
  if node.name == 'integer_pow':
    return node.params['y'] >= 0
  if node.name == 'div' and node.inputs[1] in constants:
    divisor = constants[node.inputs[1]]
    return not isinstance(divisor, core.Tracer) and bool(np.all(divisor))
  return rule_of(node) is not rule_lib.OPAQUE and node.name not in _UNBOUNDED


def rule_of(node: nodes.Node) -> rule_lib.Rule:
  """The rule of a node; `rule.OPAQUE` for what is not understood."""
  if node.params.get('batch_group_count', 1) != 1:
    return rule_lib.OPAQUE
  return RULES.get(node.name, rule_lib.OPAQUE)
