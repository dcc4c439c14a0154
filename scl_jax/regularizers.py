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
"""Regularisation terms of an explicit objective."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import ste
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def connection_count(
  mask_params: PyTree,
  *,
  costs: ArrayLike | PyTree = 1.0,
  estimator: ste.Estimator = 'identity',
) -> jax.Array:
  """The number of live connections, Σ c S(m), differentiable in m.

  `loss + penalty * connection_count(mask_params)` is the objective of SCL
  (arXiv 2201.05020, abstract).

  Args:
    mask_params: Mask variables; `None` counts nothing.
    costs: c, what one mask variable counts: a number, or a tree like
      `mask_params` of arrays that broadcast against its leaves; what it has
      besides, for biases say, is not read. Give the number
      of connections that a variable stands for where it is more than one, or
      the MACs of a connection to count MACs.
    estimator: The straight-through estimator, see `scl_jax.ste`.

  Returns:
    A float32 scalar.

  Raises:
    ValueError: If `mask_params` holds no array, or the trees do not fit.

  Example:
    >>> connection_count({'w': jnp.array([0.3, -0.3, 0.1]), 'b': None})
    Array(2., dtype=float32)
  """
  if not jax.tree.leaves(mask_params):
    raise ValueError(
      'mask_params holds no array, so there is nothing to count.'
    )
  if jax.tree_util.all_leaves([costs]):
    costs = jax.tree.map(lambda _: costs, mask_params)
  try:
    rows = tree_lib.zip_leaves(costs, mask_params)
  except ValueError as error:
    raise ValueError(f'costs must fit mask_params. {error}') from error
  total = jnp.zeros((), jnp.float32)
  for _, cost, m in rows:
    if m is not None:
      step = ste.unit_step(m, estimator)
      total += jnp.sum(step * cost, dtype=jnp.float32)
  return total
