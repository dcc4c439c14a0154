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
"""What follows a product and can be done while its result is written.

Per feature a scale and a shift, in any number of steps (a bias, BatchNorm with
running statistics), then another array of the same shape (a residual branch),
then a ReLU. The scale goes into the weights.
"""

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import trimming

_ABSORBED = ('add', 'add_any', 'div', 'max', 'mul', 'sub')


class Epilogue(NamedTuple):
  """result = max(product * scale + shift + other, floor).

  Attributes:
    result: The variable that holds it.
    absorbed: The positions of the nodes that are done with it.
    scale: [features], float64.
    shift: [features], float64.
    other: The variable that is added, or `None`.
    floor: 0 for a ReLU, else -inf.
  """

  result: int
  absorbed: frozenset[int]
  scale: np.ndarray
  shift: np.ndarray
  other: int | None = None
  floor: float = -np.inf


def epilogue(
  graph: trimming.Trimmed,
  index: int,
  axes: Sequence[int],
  available: Container[int],
) -> Epilogue:
  """Follows the result of a product as long as nothing else reads it.

  Args:
    graph: The graph.
    index: The product's position.
    axes: The axes of its result that are its features.
    available: The variables that are computed before it.

  Returns:
    The `Epilogue`; with a scale of 1 and a shift of 0 if nothing fits.
  """
  (variable,) = graph.nodes[index].outputs
  features = int(np.prod([graph.shape(variable)[axis] for axis in axes]))
  found = Epilogue(variable, frozenset(), np.ones(features), np.zeros(features))
  while np.isneginf(found.floor):
    users = graph.uses[found.result]
    if len(users) != 1 or users[0] is None:
      break
    following = _absorb(graph, found, users[0], axes, available)
    if following is None:
      break
    found = following
  return found


def _absorb(
  graph: trimming.Trimmed,
  found: Epilogue,
  position: int,
  axes: Sequence[int],
  available: Container[int],
) -> Epilogue | None:
  """With the node at a position as well, if it is of the kind."""
  node = graph.nodes[position]
  shape = graph.shape(found.result)
  # Products take constants, too, but of shapes of their own.
  if node.name not in _ABSORBED or graph.shape(node.outputs[0]) != shape:
    return None
  side = node.inputs.index(found.result)
  partner = node.inputs[1 - side]
  if partner in graph.constants:
    constant = _by_feature(graph.constants[partner], shape, axes)
    changes = None if constant is None else _apply(node, found, side, constant)
  elif (
    node.name in ('add', 'add_any')
    and found.other is None
    and graph.shape(partner) == shape
    and partner in available
  ):
    changes = {'other': partner}
  else:
    changes = None
  if changes is None:
    return None
  absorbed = found.absorbed | {position}
  return found._replace(result=node.outputs[0], absorbed=absorbed, **changes)


def _apply(
  node: nodes.Node, found: Epilogue, side: int, constant: np.ndarray
) -> dict[str, np.ndarray | float] | None:
  """What changes by a primitive with a constant."""
  scale, shift = found.scale, found.shift
  if node.name == 'max' and not constant.any():
    return {'floor': 0.0}
  if node.name in ('add', 'add_any'):
    return {'shift': shift + constant}
  if node.name == 'sub' and side == 0:
    return {'shift': shift - constant}
  if found.other is not None:
    return None  # it would have to be scaled, too
  if node.name == 'sub':
    return {'scale': -scale, 'shift': constant - shift}
  if node.name == 'mul':
    return {'scale': scale * constant, 'shift': shift * constant}
  if node.name == 'div' and side == 0 and constant.all():
    return {'scale': scale / constant, 'shift': shift / constant}
  return None


def _by_feature(
  constant: np.ndarray, shape: Sequence[int], axes: Sequence[int]
) -> np.ndarray | None:
  """One number for each feature, if the constant is the same elsewhere."""
  full = np.broadcast_to(constant.astype(np.float64), shape)
  first = tuple(
    slice(None) if axis in axes else slice(0, 1) for axis in range(len(shape))
  )
  if 0 in shape or (constant.size > 1 and (full != full[first]).any()):
    return None
  rest = [axis for axis in range(len(shape)) if axis not in axes]
  return full[first].transpose(*axes, *rest).reshape(-1)
