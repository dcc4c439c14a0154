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
"""The leaf from which a value computed from params alone comes."""

from collections.abc import Sequence
import math
from typing import NamedTuple

PRODUCTS = ('dot_general', 'conv_general_dilated')


class Origin(NamedTuple):
  """Where a value comes from that params and constants alone determine.

  Attributes:
    leaf: The leaf's position in params.
    shape: Its shape.
    multiplied: Whether a product lies between the leaf and the value.
  """

  leaf: int
  shape: tuple[int, ...]
  multiplied: bool = False


def of_result(name: str, operands: Sequence[Origin]) -> Origin:
  """Where the result of a primitive comes from.

  Args:
    name: The primitive's name.
    operands: Where its operands come from, constants left out; at least one.

  Returns:
    The origin of the largest leaf, as a mask is not larger than its weights; of
    a product that of the weights.
  """
  if name in PRODUCTS:
    largest = max(of_weights(name, operands), key=_size)
    return largest._replace(multiplied=True)
  return max(operands, key=lambda o: (*_size(o), not o.multiplied))


def of_weights(name: str, operands: Sequence[Origin]) -> list[Origin]:
  """Which operands of a product are weights; the other is activations.

  A convolution's second operand is its kernel. Of a `dot_general` what has been
  through a product is activations, and so is what comes from the leaf with
  fewer axes longer than 1, such as a bias or a learned start.

  Args:
    name: `'dot_general'` or `'conv_general_dilated'`.
    operands: Where the operands come from, data and constants left out; one or
      two.

  Returns:
    One origin, or two where neither operand is more of a weight.
  """
  if name == 'conv_general_dilated':
    return [operands[-1]]
  ranks = [
    (not o.multiplied, sum(n > 1 for n in o.shape), len(o.shape))
    for o in operands
  ]
  return [
    o for o, rank in zip(operands, ranks, strict=True) if rank == max(ranks)
  ]


def _size(origin: Origin) -> tuple[int, int]:
  return math.prod(origin.shape), -origin.leaf
