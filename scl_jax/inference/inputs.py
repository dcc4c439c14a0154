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
"""What a compiled network is called with has to be what it was compiled for."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def convert(
  inputs: PyTree, arrays: Sequence[np.ndarray], dtypes: Sequence[np.dtype]
) -> list[np.ndarray]:
  """Inputs in the dtypes that a network was compiled for.

  Of another kind, or cut to a shorter integer, one would be another number; the
  function that was compiled would take it as it is.

  Args:
    inputs: The inputs, for their paths.
    arrays: Their leaves.
    dtypes: The dtypes to have.

  Returns:
    Arrays of these dtypes.

  Raises:
    ValueError: If a dtype does not hold the values of an input's.
  """
  return list(map(_as_dtype, tree_lib.paths(inputs), arrays, dtypes))


def check_names(expected: Any, got: Any) -> None:
  """Raises unless the leaves of two structures have the same paths.

  Args:
    expected: The structure that a network was compiled for.
    got: That of what it is called with.

  Raises:
    ValueError: If a path differs.
  """
  names = [
    tree_lib.paths(tree.unflatten(range(tree.num_leaves)))
    for tree in (expected, got)
  ]
  if names[0] != names[1]:
    raise ValueError(
      'inputs must have the structure that the network was compiled for, with '
      f'arrays at {names[0]}; got {names[1]}.'
    )


def _as_dtype(path: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
  is_number = jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
  given = jax.dtypes.canonicalize_dtype(array.dtype) if is_number else None
  casting = 'safe' if jnp.issubdtype(dtype, jnp.integer) else 'same_kind'
  if given is None or not np.can_cast(given, dtype, casting):
    raise ValueError(
      f'the input {path!r} must hold {dtype}, as the network was compiled for; '
      f'got {array.dtype}. Convert it, or compile the network with example '
      'inputs of that dtype.'
    )
  return array.astype(dtype, copy=False)
