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
"""Damaged, forged and foreign files: one clear error, bounded memory."""

import hashlib
import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest

from scl_jax import export

pytest.importorskip('safetensors')
safetensors_numpy = pytest.importorskip('safetensors.numpy')

_MAX_BYTES = 2**20
_DIGEST = slice(50, 114)


def _seeds():
  """Small files of different kinds."""
  rng = np.random.default_rng(0)
  live = rng.random((20, 30)) < 0.1
  kernel = (rng.normal(size=live.shape) * live).astype(np.float32)
  params = {
    'Dense_0': {'kernel': kernel, 'bias': kernel[0]},
    'Dense_1': {'kernel': kernel.T.astype(np.float16), 'bias': kernel[1]},
    'step': np.int32(5),
  }
  masks = {'Dense_0': {'kernel': live}, 'Dense_1': {'kernel': live.T}}
  return [
    export.serialize(params, masks, {'dataset': 'mnist', 'classes': [1, 2]}),
    export.serialize(kernel, live),
    export.serialize(
      {'a': np.zeros((0, 4)), 'b': np.zeros(3)}, {'b': np.zeros(3)}
    ),
    export.serialize({}),
  ]


SEEDS = _seeds()


def _sign(data):
  """Makes the checksum right, as one who forges a file would."""
  zeroed = data[: _DIGEST.start] + b'0' * 64 + data[_DIGEST.stop :]
  digest = hashlib.sha256(zeroed).hexdigest().encode()
  return zeroed[: _DIGEST.start] + digest + zeroed[_DIGEST.stop :]


def _load(data):
  """Whether the file is accepted; anything but the one error is a failure."""
  try:
    contents = export.deserialize(data, max_bytes=_MAX_BYTES)
  except export.FileFormatError:
    return False
  arrays = jax.tree.leaves((contents.params, contents.masks))
  assert sum(array.nbytes for array in arrays) <= _MAX_BYTES + len(data)
  return True


def _damage(rng, data):
  """Flips, cuts, repeats or overwrites something."""
  data = bytearray(data)
  kind = rng.randrange(6)
  start = rng.randrange(len(data))
  end = min(len(data), start + rng.choice([1, 2, 8, 100]))
  if kind <= 1:
    for _ in range(rng.choice([1, 1, 1, 2, 10])):
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  elif kind == 2:
    del data[start:]
  elif kind == 3:
    del data[start:end]
  elif kind == 4:
    data[start:start] = data[start:end]
  else:
    data[start:end] = rng.randbytes(end - start)
  return bytes(data)


def test_damaged_files():
  rng = random.Random(0)
  for _ in range(8000):
    data = rng.choice(SEEDS)
    damaged = _damage(rng, data)
    assert not _load(damaged) or damaged == data


def test_every_truncation_and_every_byte():
  for data in SEEDS:
    for end in range(len(data)):
      assert not _load(data[:end])
      changed = data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]
      assert not _load(changed)
    assert not _load(data + b'\0')
    assert not _load(data + data)


def test_damaged_files_with_a_right_checksum():
  """What they hold may have changed; what they can do has not."""
  rng = random.Random(1)
  accepted = 0
  for _ in range(5000):
    accepted += _load(_sign(_damage(rng, rng.choice(SEEDS))))
  assert 0 < accepted < 5000


_STRANGE = [
  *(-1, 0, 1, 3, 30, 600, 2**31, 2**32 - 1, 2**62, 2**63, 2**64, 10**30),
  *(1.5, 1e400, True, None, '', 'x', 'F32', 'I64', 'U8', 'F4', 'params/'),
  *([], {}, [0], [-1], [600], [2**40, 2**40], [0, 2**62], [1] * 99, [[]]),
  *({'keys': []}, {'keys': ['a'], 'shape': [1]}, [0, 10**15], [[0, 0]]),
]


def _mutate(rng, node):
  """Replaces, swaps, drops or adds something somewhere in JSON."""
  if isinstance(node, dict) and node and rng.random() < 0.85:
    key = rng.choice(list(node))
    action = rng.randrange(8)
    if action == 0:
      return {k: v for k, v in node.items() if k != key}
    if action == 1:
      other = rng.choice(list(node))
      return {**node, key: node[other], other: node[key]}
    if action == 2:
      return {**node, rng.choice(['x', 'shape', 'masks/']): node[key]}
    return {**node, key: _mutate(rng, node[key])}
  if isinstance(node, list) and node and rng.random() < 0.85:
    index = rng.randrange(len(node))
    action = rng.randrange(6)
    if action == 0:
      return node[:index] + node[index + 1 :]
    if action == 1:
      return [*node, node[index]]
    return [*node[:index], _mutate(rng, node[index]), *node[index + 1 :]]
  if isinstance(node, int) and rng.random() < 0.5:
    return node + rng.choice([-8, -4, -1, 1, 4, 8])
  return rng.choice(_STRANGE)


def _compact(value):
  return json.dumps(value, separators=(',', ':'))


def _forge(rng, data):
  """Changes the header or the description, and keeps all the rest right."""
  length = int.from_bytes(data[:8], 'little')
  header = json.loads(data[8 : 8 + length])
  description = json.loads(header.pop('__metadata__')['scl_jax'])
  digest = description.pop('sha256')
  for _ in range(rng.choice([1, 1, 2, 3])):
    if rng.random() < 0.25:
      header = _mutate(rng, header)
    else:
      description = _mutate(rng, description)
  # Both may have become anything; the checksum stays where it has to be.
  text = _compact(description)
  text = f'{{"sha256":"{digest}",' + text.removeprefix('{')
  tail = _compact(header).removeprefix('{')
  head = f'{{"__metadata__":{_compact({"scl_jax": text})},{tail}'.encode()
  head += b' ' * (-len(head) % 8)
  return _sign(len(head).to_bytes(8, 'little') + head + data[8 + length :])


def test_forged_files():
  rng = random.Random(2)
  accepted = 0
  for _ in range(10_000):
    accepted += _load(_forge(rng, rng.choice(SEEDS)))
  assert 0 < accepted < 10_000


def test_memory_is_bounded():
  rng = random.Random(3)
  files = [_forge(rng, rng.choice(SEEDS)) for _ in range(500)]
  # A tiny file of 2**50 pruned connections, and of one far away.
  for shape in ([2**25, 2**25], [0, 2**61], [2**61, 0, 2**61], [2**62]):
    files.append(_with_shape(shape))
  tracemalloc.start()
  try:
    for data in files:
      _load(data)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 4 * _MAX_BYTES


def _with_shape(shape):
  data = export.serialize(np.zeros((3, 3)), np.zeros((3, 3)))
  old, new = b'\\"shape\\":[3,3]', f'\\"shape\\":{shape}'.encode()
  assert old in data
  data = data.replace(old, new)
  length = int.from_bytes(data[:8], 'little') + len(new) - len(old)
  return _sign(length.to_bytes(8, 'little') + data[8:])


@pytest.mark.parametrize('shape', [[3, 3, 1], [9], [100], [2, 2]])
def test_a_forged_shape_is_what_it_says(shape):
  """So that the two tests around are known to forge well."""
  contents = export.deserialize(_with_shape(shape))
  assert contents.params.shape == tuple(shape)


@pytest.mark.parametrize('version', ['0', '2', '"1"', 'null'])
def test_other_versions_are_named(version):
  old = b'\\"version\\":1,'
  new = f'\\"version\\":{version},'.replace('"', '\\"', 0).encode()
  new = new.replace(b':"1"', b':\\"1\\"')
  data = SEEDS[0].replace(old, new)
  length = int.from_bytes(data[:8], 'little') + len(new) - len(old)
  data = _sign(length.to_bytes(8, 'little') + data[8:])
  with pytest.raises(export.FileFormatError, match='version'):
    export.deserialize(data)


class _Bomb:
  def __reduce__(self):
    return os.abort, ()


def _zip():
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as file:
    file.writestr('a', b'b')
  return buffer.getvalue()


def _npz():
  buffer = io.BytesIO()
  np.savez(buffer, a=np.zeros(3))
  return buffer.getvalue()


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\0' * 8,
    b'\xff' * 200,
    b'\x02' + b'\0' * 7 + b'{}',
    b'\x89PNG\r\n\x1a\n' + b'\0' * 100,
    pickle.dumps(_Bomb()),
    _zip(),
    _npz(),
    safetensors_numpy.save({'a': np.zeros(3)}, {'scl_jax': '{}'}),
    (10**6).to_bytes(8, 'little') + b'[' * 10**6,
    SEEDS[0][:8] + b'[' * 10**5,
    _sign(SEEDS[0][:50] + b'0' * 64 + b'[' * 10**5),
  ],
  ids=range(12),
)
def test_foreign_files(data):
  assert not _load(data)
  assert not data or not _load(data + SEEDS[0])


def test_json_that_is_too_deep():
  """In the description, where our own reader meets it first."""
  text = '{"sha256":"' + '0' * 64 + '","a":' + '[' * 10**5
  head = _compact({'__metadata__': {'scl_jax': text}}).encode()
  assert not _load(_sign(len(head).to_bytes(8, 'little') + head))


def test_leaves_within_leaves():
  data = export.serialize({'aa': np.zeros(2), 'ab': {'c': np.zeros(2)}})
  data = data.replace(b'[\\"ab\\",', b'[\\"aa\\",')
  data = _sign(data.replace(b'/ab/', b'/aa/'))
  with pytest.raises(export.FileFormatError, match='within another'):
    export.deserialize(data)
