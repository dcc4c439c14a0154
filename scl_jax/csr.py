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
"""Pruned weights as matrices of compressed sparse rows (CSR).

This is a format and no speed-up: a product with such a matrix is usually slower
than the dense one at the densities of trained networks, and JAX no longer
develops `jax.experimental.sparse`.

A matrix has the last axis of its weight as columns and all other axes, in their
order, as rows: that of a kernel of shape (3, 3, 16, 32) is (144, 32). Live
connections whose value is 0 are stored like others.
"""

import io
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import atomic
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

_SCIPY_DTYPES = [np.dtype(char) for char in np.typecodes['AllInteger'] + 'fdFD']


def save_csr(
  folder: str | os.PathLike[str], params: PyTree, masks: PyTree
) -> dict[str, str]:
  """Writes each pruned weight as `.npz` that `scipy.sparse.load_npz` reads.

  The leaf `'Dense_0/kernel'` becomes `Dense_0.kernel.npz`. Leaves that are not
  pruned are left out, `scl_jax.save_dense` writes them.

  Args:
    folder: Where the files go; made if it is not there.
    params: The effective parameters, any pytree of arrays. SciPy has no float16
      and no bfloat16.
    masks: As `scl_jax.get_masks` gives them; `None` where not pruned.

  Returns:
    The file of each pruned leaf, by its path.

  Raises:
    ImportError: Without SciPy, which JAX needs, too.
    ValueError: If the trees do not fit, params are not 0 where masks are, SciPy
      has not the dtype of a leaf, or two leaves would have the same file.
  """
  import scipy.sparse

  matrices = {}
  for path, leaf, mask in tree_lib.zip_leaves(params, masks):
    if mask is None:
      continue
    values, columns, row_ends, shape = _compress(path, leaf, mask)
    if values.dtype not in _SCIPY_DTYPES:
      raise ValueError(
        f'SciPy has no sparse matrices of {values.dtype}: convert {path!r} to '
        'float32 first.'
      )
    name = f'{path.replace("/", ".")}.npz'
    file = os.path.join(os.fspath(folder), name)
    if file in [other for other, _ in matrices.values()]:
      raise ValueError(f'Two leaves would have the same file {name!r}.')
    matrix = scipy.sparse.csr_array((values, columns, row_ends), shape=shape)
    matrices[path] = file, matrix

  os.makedirs(folder, exist_ok=True)
  for file, matrix in matrices.values():
    buffer = io.BytesIO()
    scipy.sparse.save_npz(buffer, matrix)
    atomic.write(file, buffer.getvalue())
  return {path: file for path, (file, _) in matrices.items()}


def to_bcsr(params: PyTree, masks: PyTree) -> PyTree:
  """The params with each pruned weight as `jax.experimental.sparse.BCSR`.

  A format for those who use `jax.experimental.sparse` already, no speed-up; see
  the module's docstring for the shape of a matrix.

  Args:
    params: The effective parameters, any pytree of arrays; not traced, as the
      number of live connections decides shapes.
    masks: As `scl_jax.get_masks` gives them; `None` where not pruned.

  Returns:
    A tree like `params`: `BCSR` of its dtype where pruned, other leaves as they
    are.

  Raises:
    ValueError: If the trees do not fit, or params are not 0 where masks are.

  Example:
    >>> to_bcsr({'w': jnp.eye(3)}, {'w': jnp.eye(3)})['w'].data
    Array([1., 1., 1.], dtype=float32)
  """
  from jax.experimental import sparse

  def convert(path, leaf, mask):
    if mask is None:
      return leaf
    values, columns, row_ends, shape = _compress(path, leaf, mask)
    return sparse.BCSR(
      (jnp.asarray(values), jnp.asarray(columns), jnp.asarray(row_ends)),
      shape=shape,
      indices_sorted=True,
      unique_indices=True,
    )

  leaves = [convert(*row) for row in tree_lib.zip_leaves(params, masks)]
  return jax.tree.unflatten(jax.tree.structure(params), leaves)


class _Compressed(NamedTuple):
  values: np.ndarray
  columns: np.ndarray
  row_ends: np.ndarray
  shape: tuple[int, int]


def _compress(path: str, leaf: Any, mask: Any) -> _Compressed:
  array = np.asarray(leaf)
  shape = math.prod(array.shape[:-1]), math.prod(array.shape[-1:])
  live = masks_lib.host_mask(array, mask, path).reshape(shape) != 0
  index = np.int32 if array.size < 2**31 else np.int64
  row_ends = np.concatenate([[0], np.cumsum(live.sum(axis=1))])
  return _Compressed(
    array.reshape(shape)[live],
    np.nonzero(live)[1].astype(index),
    row_ends.astype(index),
    shape,
  )
