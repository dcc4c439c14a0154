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
# What puts values beside one another.
_JOINS = ('concatenate', 'dynamic_update_slice', 'scatter')


class Origin(NamedTuple):
  """Where a value comes from that params and constants alone determine.

  Attributes:
    leaf: The leaf's position in params.
    shape: Its shape.
    multiplied: Whether a product lies between the leaf and the value.
    beside: Where other parts of the value come from, as in a concatenation of
      kernels, of which `leaf` is the largest.
  """

  leaf: int
  shape: tuple[int, ...]
  multiplied: bool = False
  beside: tuple['Origin', ...] = ()


def of_result(name: str, operands: Sequence[Origin]) -> Origin:
  """Where the result of a primitive comes from.

  Args:
    name: The primitive's name.
    operands: Where its operands come from, constants left out; at least one.

  Returns:
    The origin of the largest leaf, as a mask is not larger than its weights; of
    a product that of the weights; of what joins its operands all of them.
  """
  if name in PRODUCTS:
    largest = max(of_weights(name, operands), key=_size)
    return largest._replace(multiplied=True)
  if name in _JOINS:
    return _joined(operands)
  return max(operands, key=lambda o: (*_size(o), not o.multiplied))


def leaves(origin: Origin) -> tuple[int, ...]:
  """The positions of all leaves whose entries a value has."""
  return (origin.leaf, *(part.leaf for part in origin.beside))


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


def _joined(operands: Sequence[Origin]) -> Origin:
  parts = {
    part.leaf: part._replace(beside=())
    for operand in operands
    for part in (operand, *operand.beside)
  }
  largest = max(parts.values(), key=_size)
  del parts[largest.leaf]
  return largest._replace(
    multiplied=any(o.multiplied for o in operands),
    beside=tuple(parts[leaf] for leaf in sorted(parts)),
  )


def _size(origin: Origin) -> tuple[int, int]:
  shapes = [o.shape for o in (origin, *origin.beside)]
  return sum(map(math.prod, shapes)), -origin.leaf
