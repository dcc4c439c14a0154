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

from scl_jax.graph import elementwise
from scl_jax.graph import lookups
from scl_jax.graph import movement
from scl_jax.graph import nodes
from scl_jax.graph import products
from scl_jax.graph import reductions
from scl_jax.graph import rule as rule_lib

RULES: Mapping[str, rule_lib.Rule] = {
  **dict.fromkeys(elementwise.NAMES, elementwise.RULE),
  **lookups.RULES,
  **movement.RULES,
  **products.RULES,
  **reductions.RULES,
}


def rule_of(node: nodes.Node) -> rule_lib.Rule:
  """The rule of a node; `rule.OPAQUE` for what is not understood."""
  if node.params.get('batch_group_count', 1) != 1:
    return rule_lib.OPAQUE
  return RULES.get(node.name, rule_lib.OPAQUE)
