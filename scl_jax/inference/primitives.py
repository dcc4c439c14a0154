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
"""JAX's primitives in NumPy, but for products with weights.

Some are views, which cost nothing (`movement.view`); the others are steps that
write into arrays that are there before. What is in no table is not supported.
"""

from collections.abc import Sequence
import functools
import math

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import elementwise
from scl_jax.inference import errors
from scl_jax.inference import lookups
from scl_jax.inference import movement
from scl_jax.inference import products
from scl_jax.inference import reductions

Step = products.Step
Operands = Sequence[np.ndarray]


def steps(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  """What computes a node's result.

  Args:
    node: The node.
    operands: Its operands.
    out: Where the result goes.

  Returns:
    Functions to be called in order.

  Raises:
    UnsupportedError: If the primitive is not listed here.
  """
  if node.name in elementwise.UFUNCS:
    ufunc = elementwise.UFUNCS[node.name]
    return [functools.partial(ufunc, *operands, out=out)]
  if node.name in _BUILDERS:
    return _BUILDERS[node.name](node, operands, out)
  raise errors.unsupported(node)


def _dot_general(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  """A product of data with data, as a stack of matrix products."""
  contracted, batches = node.params['dimension_numbers']
  free = [
    [a for a in range(x.ndim) if a not in (*contracted[side], *batches[side])]
    for side, x in enumerate(operands)
  ]
  shapes = [
    tuple(x.shape[a] for a in axes)
    for x, axes in zip(operands, free, strict=True)
  ]
  left, right = operands
  batch = tuple(left.shape[a] for a in batches[0])
  depth = math.prod(left.shape[a] for a in contracted[0])
  left = left.transpose(*batches[0], *free[0], *contracted[0])
  right = right.transpose(*batches[1], *contracted[1], *free[1])
  left_shape = (*batch, math.prod(shapes[0]), depth)
  right_shape = (*batch, depth, math.prod(shapes[1]))
  # Sums are of the result's dtype (`preferred_element_type`), or wider: as in
  # XLA those of short floats are float32.
  dtype = np.result_type(left, right, out)
  if jnp.issubdtype(dtype, jnp.inexact):
    dtype = np.promote_types(dtype, np.float32)

  def step():
    lines = left.reshape(left_shape).astype(dtype, copy=False)
    columns = right.reshape(right_shape).astype(dtype, copy=False)
    result = (lines @ columns).reshape(out.shape)
    np.copyto(out, result, casting='unsafe')

  return [step]


_BUILDERS = {
  **elementwise.BUILDERS,
  **lookups.BUILDERS,
  **movement.BUILDERS,
  **reductions.BUILDERS,
  'dot_general': _dot_general,
}
