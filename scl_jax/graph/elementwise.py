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
"""Rules of elementwise primitives."""

from collections.abc import Sequence

import numpy as np

from scl_jax.graph import facts as facts_lib
from scl_jax.graph import labels as labels_lib
from scl_jax.graph import rule as rule_lib

Fact = facts_lib.Fact
Site = rule_lib.Site


def tie(site: Site, ties: labels_lib.Ties) -> list[labels_lib.Labels]:
  """Equal indices are one feature; a stretched axis is no feature."""
  (out,) = site.outputs
  result: list[labels_lib.Label] = []
  for axis, size in enumerate(out.shape):
    full = []
    for aval, labels in zip(site.inputs, site.in_labels, strict=True):
      if not labels:
        continue
      if aval.shape[axis] == size:
        full.append(labels[axis])
      else:
        ties.pin(labels[axis])
    result.append(ties.tie_all(full))
  return [tuple(result)]


def know(site: Site, facts: Sequence[Fact]) -> list[Fact]:
  """Known where all operands are, or where 0 is a factor."""
  name = site.node.name
  known = np.asarray(True)
  for fact in facts:
    known = known & fact.known
  if name == 'mul':
    known = known | facts[0].zero | facts[1].zero
  elif name == 'div':
    known = known | facts[0].zero
  elif name == 'select_n':
    known = facts[0].known & _selected(facts, [f.known for f in facts[1:]])
  (labels,), (aval,) = site.out_labels, site.outputs
  if not known.any():
    return [facts_lib.unknown(aval, labels)]
  values = [f.value for f in facts]
  if name == 'div':  # no 0 / 0 where the divisor is not known
    values[1] = np.where(facts[1].known, values[1], np.ones_like(values[1]))
  value = facts_lib.evaluate(site.node.bind, site.params, *values)
  value, known = np.broadcast_arrays(value, known)
  value = np.where(known, value, np.zeros_like(value))
  return [facts_lib.project(Fact(value, known), labels)]


def need(
  site: Site, facts: Sequence[Fact], needs: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """What the result needs, less what is multiplied by 0 or not selected.

  Of two factors that are both 0 both are needed, so that each stays 0.
  """
  (wanted,) = needs
  shape = np.broadcast_shapes(wanted.shape, *(f.known.shape for f in facts))
  wanted = np.broadcast_to(wanted, shape)
  result = [wanted] * len(facts)
  if site.node.name == 'mul':
    left, right = (fact.zero for fact in facts)
    result = [wanted & ~(right & ~left), wanted & ~(left & ~right)]
  elif site.node.name == 'select_n':
    which = facts[0]
    result = [wanted] + [
      wanted & ~(which.known & (which.value.astype(int) != index))
      for index in range(len(facts) - 1)
    ]
  return [
    facts_lib.fit(n, labels)
    for n, labels in zip(result, site.in_labels, strict=True)
  ]


def _selected(facts: Sequence[Fact], cases: Sequence[np.ndarray]) -> np.ndarray:
  which, *cases = np.broadcast_arrays(facts[0].value.astype(int), *cases)
  return np.choose(which, cases)


RULE = rule_lib.Rule(tie, know, need)
