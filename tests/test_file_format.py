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
"""Tests of file_format.py: by a reader of its own, by peers, by its size."""

import hashlib
import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import export

safetensors = pytest.importorskip('safetensors')
safetensors_numpy = pytest.importorskip('safetensors.numpy')

_FORMATS = {'F32': 'f', 'F64': 'd', 'F16': 'e', 'I32': 'i', 'U8': 'B'}


def _read(data):
  """Written from the docstrings alone, with struct, json and hashlib."""
  (length,) = struct.unpack('<Q', data[:8])
  digest = data[50:114].decode()
  zeroed = data[:50] + b'0' * 64 + data[114:]
  assert hashlib.sha256(zeroed).hexdigest() == digest
  header = json.loads(data[8 : 8 + length])
  description = json.loads(header.pop('__metadata__')['scl_jax'])
  assert list(description) == [
    'sha256',
    'version',
    'writer',
    'leaves',
    'metadata',
  ]
  assert description['sha256'] == digest
  assert description['version'] == 1

  def tensor(name):
    entry = header.pop(name)
    start, end = entry['data_offsets']
    raw = data[8 + length + start : 8 + length + end]
    code = _FORMATS[entry['dtype']]
    values = struct.unpack(f'<{len(raw) // struct.calcsize(code)}{code}', raw)
    return list(values), entry['shape']

  leaves = {}
  for leaf in description['leaves']:
    path = '/'.join(leaf['keys'])
    values, shape = tensor(f'params/{path}')
    if 'shape' in leaf:
      assert shape == [len(values)]
      code, _ = tensor(f'masks/{path}')
      places = _places(code, len(values))
      shape, live = leaf['shape'], dict(zip(places, values, strict=True))
      values = [live.get(i, 0.0) for i in range(math.prod(shape))]
    leaves[path] = shape, values
  assert not header
  return leaves, description['metadata']


def _places(code, live):
  k = code[0]
  bits = ''.join(f'{byte:08b}' for byte in code[1:])
  low_start = 8 * (len(code) - 1 - -(-live * k // 8))
  unary, low = iter(bits[:low_start]), iter(bits[low_start:])
  place = -1
  for _ in range(live):
    gap = 0
    while next(unary) == '0':
      gap += 1
    for _ in range(k):
      gap = 2 * gap + int(next(low))
    place += gap + 1
    yield place


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'float64'])
@pytest.mark.parametrize('density', [0.0, 0.03, 0.5, 1.0])
def test_can_be_read_from_its_description(dtype, density):
  rng = np.random.default_rng(0)
  live = rng.random((13, 17)) < density
  params = {
    'Dense_0': {
      'kernel': (rng.normal(size=live.shape) * live).astype(dtype),
      'bias': rng.normal(size=17).astype(dtype),
    },
    'steps': np.int32(7),
  }
  masks = {'Dense_0': {'kernel': live}}
  data = export.serialize(params, masks, {'seed': 3})
  leaves, metadata = _read(data)
  assert metadata == {'seed': 3}
  assert leaves['steps'] == ([], [7])
  kernel, bias = leaves['Dense_0/kernel'], leaves['Dense_0/bias']
  np.testing.assert_array_equal(bias[1], params['Dense_0']['bias'])
  np.testing.assert_array_equal(
    np.reshape(kernel[1], kernel[0]), params['Dense_0']['kernel']
  )


def test_safetensors_opens_a_sparse_file(tmp_path):
  path = tmp_path / 'network.safetensors'
  kernel = np.float32([[1, 0], [0, 2]])
  params = {'kernel': kernel, 'bias': np.float32([3, 4])}
  export.save(path, params, {'kernel': kernel != 0})
  tensors = safetensors_numpy.load_file(path)
  assert sorted(tensors) == ['masks/kernel', 'params/bias', 'params/kernel']
  np.testing.assert_array_equal(tensors['params/kernel'], [1, 2])
  np.testing.assert_array_equal(tensors['params/bias'], [3, 4])
  with safetensors.safe_open(path, framework='np') as file:
    assert list(file.metadata()) == ['scl_jax']


def test_safetensors_opens_a_dense_file(tmp_path):
  path = tmp_path / 'network.safetensors'
  params = {
    'Dense_0': {'kernel': jnp.eye(3), 'bias': np.arange(3)},
    'scale': jnp.float32(2),
  }
  export.save_dense(path, params)
  tensors = safetensors_numpy.load_file(path)
  assert sorted(tensors) == ['Dense_0/bias', 'Dense_0/kernel', 'scale']
  np.testing.assert_array_equal(tensors['Dense_0/kernel'], np.eye(3))
  np.testing.assert_array_equal(tensors['Dense_0/bias'], np.arange(3))
  assert tensors['scale'].shape == ()
  with pytest.raises(export.FileFormatError, match='no file of'):
    export.load(path)


def test_a_name_that_safetensors_keeps_for_itself(tmp_path):
  with pytest.raises(ValueError, match='__metadata__'):
    export.save_dense(tmp_path / 'network', {'__metadata__': np.zeros(3)})
  data = export.serialize({'__metadata__': np.zeros(3)})
  assert list(export.deserialize(data).params) == ['__metadata__']


def test_dense_bfloat16(tmp_path):
  path = tmp_path / 'network.safetensors'
  export.save_dense(path, {'w': jnp.array([1.5, -2.0], jnp.bfloat16)})
  (row,) = safetensors.deserialize(path.read_bytes())
  assert row[1]['dtype'] == 'BF16'
  words = np.frombuffer(row[1]['data'], '<u2').astype(np.uint32) << 16
  np.testing.assert_array_equal(words.view(np.float32), [1.5, -2.0])


def _limit(size, live, itemsize):
  """Bytes of the live values plus the entropy of as many random places."""
  p = live / size
  entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
  return live * itemsize + size * entropy / 8


@pytest.mark.parametrize('dtype', ['float32', 'float16', jnp.bfloat16])
@pytest.mark.parametrize('density', [0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5])
def test_size_of_random_masks(dtype, density):
  live = np.random.default_rng(0).random((1000, 1000)) < density
  data = export.serialize({'w': live.astype(dtype)}, {'w': live})
  limit = _limit(live.size, live.sum(), np.dtype(dtype).itemsize)
  assert len(data) < 1.03 * limit
  if density == 0.01 and np.dtype(dtype) == np.float32:
    assert len(data) < 0.014 * live.size * 4


@pytest.mark.parametrize('layout', ['clusters', 'dead features', 'worst'])
@pytest.mark.parametrize('density', [0.005, 0.02, 0.1, 0.25, 0.5])
def test_size_of_masks_that_are_not_random(density, layout):
  """The limit of random places holds for others, too, up to 10 %."""
  shape = (1000, 1000)
  rng = np.random.default_rng(0)
  if layout == 'clusters':
    live = np.zeros(shape, bool)
    live.ravel()[: int(density * live.size)] = True
  elif layout == 'dead features':
    live = rng.random(shape) < 2 * density
    live[:, rng.random(1000) < 0.5] = False
  else:  # all gaps alike, all just above what costs another bit
    live = np.zeros(shape, bool)
    live.ravel()[:: int(1 / density)] = True
  data = export.serialize({'w': live.astype(np.float32)}, {'w': live})
  assert len(data) < 1.1 * _limit(live.size, live.sum(), 4)
