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
"""Sparse networks as files.

`save` and `load` keep of a pruned weight its live values and a code of its
mask. A file is within 10 % of the size of these values plus the entropy of the
masks, and a header of some 200 bytes a leaf: at a density of 1 %, 1.3 % of the
dense float32 network. `scl_jax.file_format` says what is in it.

`save_dense` writes what every reader of safetensors understands.
"""

from collections.abc import Mapping, Sequence
import json
import numbers
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from scl_jax import atomic
from scl_jax import file_format
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

FileFormatError = file_format.FileFormatError


class Contents(NamedTuple):
  """What a file holds.

  Attributes:
    params: The effective parameters, as NumPy arrays.
    masks: A tree like `params`: arrays of {0, 1} of the weight's shape and
      dtype, `None` at leaves that are not pruned.
    metadata: The user's.
  """

  params: PyTree
  masks: PyTree
  metadata: dict[str, Any]


def save(
  path: str | os.PathLike[str],
  params: PyTree,
  masks: PyTree = None,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes a sparse network to a file, whole or not at all.

  Args:
    path: The file; one that is there is replaced. By custom it ends in
      `.safetensors`.
    params: The effective parameters, 0 where the masks are. Any pytree of
      arrays; sharded ones are gathered on the host.
    masks: As `scl_jax.get_masks` gives them, or smaller ones that
      `masks.expand` takes to the shapes of `params`; `None` where not pruned.
    metadata: Any JSON object: strings, numbers, lists, dicts with string keys.

  Raises:
    ImportError: Without safetensors, which comes with `scl_jax[export]`.
    ValueError: If the trees do not fit, `masks` holds anything but {0, 1},
      `params` is not 0 where it is pruned, or something cannot be kept
      exactly.

  Example:
    >>> masks = scl_jax.get_masks(opt_state)  # doctest: +SKIP
    >>> save('mnist.safetensors', params, masks)  # doctest: +SKIP
    >>> params, masks, metadata = load('mnist.safetensors')  # doctest: +SKIP
  """
  atomic.write(path, serialize(params, masks, metadata))


def load(
  path: str | os.PathLike[str],
  *,
  like: PyTree = None,
  max_bytes: int | None = None,
) -> Contents:
  """Reads what `save` wrote: the same bits, pruned entries as +0.

  Args:
    path: The file.
    like: A tree of arrays or of `jax.ShapeDtypeStruct` with the structure to
      restore. Without it the trees come back as nested dicts whose keys are the
      names along each leaf's path, so that a list or a NamedTuple becomes
      `{'0': ..., '1': ...}` or a dict of its fields, and `None` and empty
      containers are absent.
    max_bytes: The most memory that the arrays may take. A small file can stand
      for a huge network with few live connections; by default it may be a
      thousand times as large as its file, or 1 GiB if that is more.

  Returns:
    `Contents`: params, masks and metadata.

  Raises:
    FileNotFoundError: If there is no such file.
    FileFormatError: A ValueError, if the file is anything but what `save`
      wrote, or exceeds `max_bytes`.
    ValueError: If the file does not fit `like`.
    ImportError: Without safetensors, which comes with `scl_jax[export]`.
  """
  path = os.fspath(path)  # a number would be an open file's
  with open(path, 'rb') as file:
    # No more than its size, which is 0 for an endless device.
    data = file.read(os.fstat(file.fileno()).st_size)
  try:
    return deserialize(data, like=like, max_bytes=max_bytes)
  except FileFormatError as error:
    raise FileFormatError(f'{path}: {error}') from error


def save_dense(path: str | os.PathLike[str], params: PyTree) -> None:
  """Writes a tree of arrays as plain safetensors, whole or not at all.

  For programs that know nothing of masks: each tensor is named by its leaf's
  path, such as `'Dense_0/kernel'`, and pruned entries are zeros like others.

  Args:
    path: The file; one that is there is replaced.
    params: Any pytree of arrays.

  Raises:
    ImportError: Without safetensors, which comes with `scl_jax[export]`.
    ValueError: If a leaf cannot be kept exactly.
  """
  arrays = {
    name: _as_array(name, leaf) for name, leaf in tree_lib.zip_leaves(params)
  }
  if '__metadata__' in arrays:
    raise ValueError(
      "In safetensors no array can have the name '__metadata__'."
    )
  atomic.write(path, file_format.import_safetensors().numpy.save(arrays))


def serialize(
  params: PyTree,
  masks: PyTree = None,
  metadata: Mapping[str, Any] | None = None,
) -> bytes:
  """The bytes that `save` writes; arguments and errors are the same.

  Args:
    params: See `save`.
    masks: See `save`.
    metadata: See `save`.

  Returns:
    The file's content.

  Example:
    >>> params = {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)}
    >>> masks = {'kernel': jnp.eye(2), 'bias': None}
    >>> data = serialize(params, masks, {'dataset': 'mnist'})
    >>> deserialize(data).params['bias'], deserialize(data).metadata
    (array([0., 0.], dtype=float32), {'dataset': 'mnist'})
  """
  tree_lib.check_arrays(params, 'params')
  leaves = []
  for names, (path, leaf, mask) in zip(
    tree_lib.leaf_names(params), tree_lib.zip_leaves(params, masks), strict=True
  ):
    array = _as_array(path, leaf)
    if mask is not None:
      mask = masks_lib.host_mask(array, mask, path)
    leaves.append(file_format.Leaf(names, array, mask))
  return file_format.encode(leaves, _checked_metadata(metadata))


def deserialize(
  data: bytes, *, like: PyTree = None, max_bytes: int | None = None
) -> Contents:
  """What `load` reads, from bytes; arguments and errors are the same.

  Args:
    data: A file's content.
    like: See `load`.
    max_bytes: See `load`.

  Returns:
    `Contents`: params, masks and metadata.
  """
  if max_bytes is None:
    max_bytes = max(2**30, 1000 * len(data))
  elif not isinstance(max_bytes, numbers.Integral):
    raise ValueError(f'max_bytes must be a whole number, got {max_bytes!r}.')
  leaves, metadata = file_format.decode(data, max_bytes)
  if like is not None:
    return Contents(*_restore(like, leaves), metadata)
  return Contents(
    _nested([(leaf.keys, leaf.array) for leaf in leaves]),
    _nested([(leaf.keys, leaf.mask) for leaf in leaves]),
    metadata,
  )


def _as_array(path: str, leaf: Any) -> np.ndarray:
  array = np.asarray(leaf, order='C')
  if array.dtype not in file_format.DTYPES.values():
    names = ', '.join(str(dtype) for dtype in file_format.DTYPES.values())
    raise ValueError(
      f'params cannot be kept exactly: {path!r} is {array.dtype}, and the '
      f'format has {names}.'
    )
  return array


def _checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
  try:
    metadata = dict(metadata or {})
    is_kept = json.loads(json.dumps(metadata, allow_nan=False)) == metadata
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(f'metadata must be a JSON object: {error}') from error
  if not is_kept:
    raise ValueError(
      'metadata must be a JSON object, with strings for keys and lists for '
      f'tuples; got {metadata!r}.'
    )
  return metadata


def _nested(rows: Sequence[tuple[tuple[str, ...], Any]]) -> Any:
  if [keys for keys, _ in rows] == [()]:
    return rows[0][1]
  root: dict[str, Any] = {}
  for keys, value in rows:
    node: Any = root
    for key in keys[:-1]:
      node = node.setdefault(key, {})
      if not isinstance(node, dict):
        break
    if not keys or not isinstance(node, dict) or keys[-1] in node:
      raise FileFormatError(f'The leaf {"/".join(keys)!r} is within another.')
    node[keys[-1]] = value
  return root


def _restore(
  like: PyTree, leaves: Sequence[file_format.Leaf]
) -> tuple[PyTree, PyTree]:
  found = {leaf.path: leaf for leaf in leaves}
  arrays, masks = [], []
  for path, wanted in tree_lib.zip_leaves(like):
    leaf = found.pop(path, None)
    wanted = wanted if hasattr(wanted, 'dtype') else np.asarray(wanted)
    if leaf is None:
      raise ValueError(f'like has a leaf {path!r} that the file has not.')
    if (leaf.array.shape, leaf.array.dtype) != (wanted.shape, wanted.dtype):
      raise ValueError(
        f'The leaf {path!r} is {wanted.dtype} of shape {wanted.shape} in like, '
        f'but {leaf.array.dtype} of shape {leaf.array.shape} in the file.'
      )
    arrays.append(leaf.array)
    masks.append(leaf.mask)
  if found:
    raise ValueError(
      f'The file has leaves that like has not:\n{tree_lib.listing([*found])}'
    )
  structure = jax.tree.structure(like)
  return structure.unflatten(arrays), structure.unflatten(masks)
