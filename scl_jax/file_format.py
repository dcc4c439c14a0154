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
r"""The file format of `scl_jax.export.save`: bytes from leaves and back.

A file is a safetensors file: https://github.com/huggingface/safetensors. Any
program that reads safetensors can open one; what it finds is this.

Version 1
---------
The header's `__metadata__` has one string, `scl_jax`: a JSON object without
spaces, of these members in this order.

* `sha256`: 64 lower-case hexadecimal digits, the SHA-256 of the whole file with
  these digits replaced by 64 times `0`. They start at byte 50 of a file,
  counted from 0, after `{"__metadata__":{"scl_jax":"{\"sha256\":\"`. The
  checksum finds damage; it is no signature.
* `version`: 1.
* `writer`: the program and its version, for people.
* `leaves`: for each leaf of the tree an object with `keys`, the strings on the
  way from the root to the leaf, and, if it is pruned, `shape`, its shape.
* `metadata`: an object, the user's.

With `path` for the keys joined by `/`, the tensors are these and no others:

* `params/<path>`: the array, in its dtype; of a pruned leaf the values of its
  live connections alone, of shape [live], in row-major order.
* `masks/<path>`: of a pruned leaf, the places of its live connections, of dtype
  U8 and shape [bytes], as `scl_jax.mask_coding` says.

Values are not compressed. What a reader cannot trust is checked in this order:
checksum, container, description, sizes, and only then is memory allocated.
"""

from collections.abc import Mapping, Sequence
import hashlib
import importlib.metadata
import json
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from scl_jax import mask_coding

_VERSION = 1
_HEAD = b'{"__metadata__":{"scl_jax":"{\\"sha256\\":\\"'
_DIGEST = slice(8 + len(_HEAD), 8 + len(_HEAD) + 64)
_NO_DIGEST = '0' * 64
_MOST_AXES = 64  # NumPy's own limit
# What Python raises where JSON is not of the expected form.
_NOT_AS_EXPECTED = (
  AttributeError,
  KeyError,
  RecursionError,
  TypeError,
  ValueError,
)

# Names of dtypes in safetensors.
DTYPES = {
  'BOOL': np.dtype(np.bool_),
  'I8': np.dtype(np.int8),
  'I16': np.dtype(np.int16),
  'I32': np.dtype(np.int32),
  'I64': np.dtype(np.int64),
  'U8': np.dtype(np.uint8),
  'U16': np.dtype(np.uint16),
  'U32': np.dtype(np.uint32),
  'U64': np.dtype(np.uint64),
  'F8_E4M3': np.dtype(jnp.float8_e4m3fn),
  'F8_E5M2': np.dtype(jnp.float8_e5m2),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
  'F32': np.dtype(np.float32),
  'F64': np.dtype(np.float64),
  'C64': np.dtype(np.complex64),
}


class FileFormatError(ValueError):
  """A file that is damaged, cut short, or not one that `save` wrote."""


class Leaf(NamedTuple):
  """An array of a tree.

  Attributes:
    keys: The names from the root of the tree to the array.
    array: The array, of one of `DTYPES`.
    mask: {0, 1}, of the array's shape and dtype, or `None`. The array is 0
      where it is 0.
  """

  keys: tuple[str, ...]
  array: np.ndarray
  mask: np.ndarray | None

  @property
  def path(self) -> str:
    """The keys as one string."""
    return '/'.join(self.keys)


def encode(leaves: Sequence[Leaf], metadata: Mapping[str, Any]) -> bytes:
  """The content of a file.

  Args:
    leaves: Of different paths.
    metadata: A JSON object.

  Returns:
    The bytes; see the module's docstring.
  """
  entries, tensors = [], {}
  for leaf in leaves:
    entry: dict[str, Any] = {'keys': leaf.keys}
    values = leaf.array
    if leaf.mask is not None:
      entry['shape'] = leaf.array.shape
      positions = np.flatnonzero(leaf.mask)
      tensors[f'masks/{leaf.path}'] = mask_coding.encode(positions)
      values = leaf.array.ravel()[positions]
    tensors[f'params/{leaf.path}'] = values
    entries.append(entry)
  description = {
    'sha256': _NO_DIGEST,
    'version': _VERSION,
    'writer': _writer(),
    'leaves': entries,
    'metadata': metadata,
  }
  text = json.dumps(description, separators=(',', ':'))
  data = import_safetensors().numpy.save(tensors, {'scl_jax': text})
  return data[: _DIGEST.start] + _digest(data) + data[_DIGEST.stop :]


def decode(data: bytes, max_bytes: int) -> tuple[list[Leaf], dict[str, Any]]:
  """Reads what `encode` wrote.

  Args:
    data: A file's content, or anything else.
    max_bytes: The most memory that pruned leaves and their masks may take.

  Returns:
    The leaves and the metadata.

  Raises:
    FileFormatError: If `data` is anything but what `encode` wrote.
  """
  safetensors = import_safetensors()
  if _digest(data) != data[_DIGEST]:
    raise FileFormatError(
      'The checksum is wrong: the file was damaged after it was written.'
    )
  try:
    tensors = dict(safetensors.deserialize(data))
  except safetensors.SafetensorError as error:
    raise FileFormatError(f'This is no safetensors file: {error}') from error
  entries, metadata = _description(data)

  leaves = []
  for keys, shape in entries:
    path = '/'.join(keys)
    array, mask = _pop_array(tensors, f'params/{path}'), None
    if shape is not None:
      code = _pop_array(tensors, f'masks/{path}')
      # Before anything is allocated. NumPy bounds empty shapes, too.
      max_bytes -= 2 * array.itemsize * math.prod(max(n, 1) for n in shape)
      if max_bytes < 0:
        raise FileFormatError(
          f'With {path!r}, of shape {shape}, the arrays need more than '
          'max_bytes; if you trust the file, load it with a larger max_bytes.'
        )
      array, mask = _expand(path, array, code, shape)
    leaves.append(Leaf(keys, array, mask))
  if tensors:
    raise FileFormatError(f'There are unknown tensors: {sorted(tensors)[:9]}.')
  return leaves, metadata


def import_safetensors() -> Any:
  """The package, which is needed for these files only."""
  try:
    import safetensors.numpy
  except ImportError as error:
    raise ImportError(
      "These files need the package safetensors: pip install 'scl_jax[export]'."
    ) from error
  return safetensors


def _writer() -> str:
  try:
    return f'scl_jax {importlib.metadata.version("scl_jax")}'
  except importlib.metadata.PackageNotFoundError:  # run from its sources
    return 'scl_jax'


def _digest(data: bytes) -> bytes:
  if data[8 : _DIGEST.start] != _HEAD:
    raise FileFormatError(
      'This is no file of scl_jax.export.save, or its head is damaged.'
    )
  view = memoryview(data)
  digest = hashlib.sha256(view[: _DIGEST.start])
  digest.update(_NO_DIGEST.encode())
  digest.update(view[_DIGEST.stop :])
  return digest.hexdigest().encode()


def _description(
  data: bytes,
) -> tuple[list[tuple[tuple[str, ...], tuple[int, ...] | None]], Any]:
  """Keys and shapes of the leaves, and the user's metadata."""
  try:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
    description = json.loads(header['__metadata__']['scl_jax'])
    version, metadata = description['version'], description['metadata']
    entries = [(e['keys'], e.get('shape')) for e in description['leaves']]
  except _NOT_AS_EXPECTED as error:
    raise FileFormatError(f'The header is no description: {error!r}') from error
  if not isinstance(metadata, dict):
    raise FileFormatError('The metadata is no object.')
  if version != _VERSION:
    raise FileFormatError(
      f'The format is of version {version!r}; this scl_jax reads {_VERSION}.'
    )
  return [(_keys(keys), _shape(shape)) for keys, shape in entries], metadata


def _keys(keys: Any) -> tuple[str, ...]:
  if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
    raise FileFormatError(f'keys must be a list of strings, got {keys!r}.')
  return tuple(keys)


def _shape(shape: Any) -> tuple[int, ...] | None:
  if shape is None:
    return None
  if (
    not isinstance(shape, list)
    or len(shape) > _MOST_AXES
    or not all(type(n) is int and 0 <= n < 2**62 for n in shape)
  ):
    raise FileFormatError(f'shape must be a list of sizes, got {shape!r}.')
  return tuple(shape)


def _pop_array(tensors: dict[str, Any], name: str) -> np.ndarray:
  try:
    tensor = tensors.pop(name)
    dtype, shape = DTYPES[tensor['dtype']], _shape(tensor['shape'])
    return np.frombuffer(tensor['data'], dtype).reshape(shape)
  except (KeyError, ValueError) as error:
    raise FileFormatError(f'There is no good tensor {name!r}.') from error


def _expand(
  path: str, values: np.ndarray, code: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
  if values.ndim != 1 or code.ndim != 1 or code.dtype != np.uint8:
    raise FileFormatError(f'The tensors of {path!r} do not fit one another.')
  size = math.prod(shape)
  try:
    positions = mask_coding.decode(code, size, values.size)
  except ValueError as error:
    raise FileFormatError(f'The mask of {path!r}: {error}') from error
  array, mask = np.zeros(size, values.dtype), np.zeros(size, values.dtype)
  array[positions], mask[positions] = values, 1
  return array.reshape(shape), mask.reshape(shape)
