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
"""Tests of export.py: what comes back, and what is refused."""

from typing import Any, NamedTuple

from flax import nnx
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import export
from scl_jax import file_format

pytest.importorskip('safetensors')

DTYPES = list(file_format.DTYPES.values())
FLOATS = [np.dtype(t) for t in ('float32', 'float16', 'float64', jnp.bfloat16)]


class Layer(NamedTuple):
  kernel: Any
  bias: Any


def _bits(array):
  """What distinguishes NaNs and zeros, too."""
  array = np.asarray(array)
  return array.dtype, array.shape, array.tobytes()


def _assert_same(tree, other):
  assert jax.tree.structure(tree) == jax.tree.structure(other)
  for leaf, other_leaf in zip(
    jax.tree.leaves(tree), jax.tree.leaves(other), strict=True
  ):
    assert _bits(leaf) == _bits(other_leaf)


@st.composite
def _pruned(draw, dtype):
  """An array of any bits, but +0 where its mask is 0."""
  shape = tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
  size = int(np.prod(shape))
  raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * 8))
  bits = np.frombuffer(raw[: size * dtype.itemsize], np.uint8)
  array = bits.copy().view(dtype) if size else np.zeros(0, dtype)
  live = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
  array = np.where(live.astype(bool), array, np.zeros((), dtype))
  return array.reshape(shape), live.astype(dtype).reshape(shape)


@pytest.mark.parametrize('dtype', FLOATS, ids=str)
@hypothesis.given(data=st.data())
def test_round_trip_of_any_bits(dtype, data):
  params, masks = data.draw(_pruned(dtype))
  contents = export.deserialize(export.serialize(params, masks))
  assert _bits(contents.params) == _bits(params)
  assert _bits(contents.masks) == _bits(masks)


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('shape', [(), (0,), (3, 0), (5,), (2, 3, 4)], ids=str)
def test_round_trip_of_dtypes_and_shapes(dtype, shape):
  rng = np.random.default_rng(0)
  params = {
    'dense': rng.integers(0, 2, size=shape).astype(dtype),
    'pruned': rng.integers(0, 2, size=shape).astype(dtype),
  }
  masks = {'dense': None, 'pruned': (params['pruned'] != 0).astype(dtype)}
  contents = export.deserialize(export.serialize(params, masks))
  _assert_same(contents.params, params)
  _assert_same(contents.masks, masks)


def _network():
  kernel = jnp.array([[1.5, 0.0], [0.0, -2.5], [0.0, 0.0]], jnp.bfloat16)
  mask = (kernel != 0).astype(jnp.bfloat16)
  params = {
    'layers': [
      Layer(kernel, jnp.ones(2, jnp.bfloat16)),
      Layer(np.float32([[4.0, 0.0]]), None),
    ],
    'heads': (jnp.arange(3), 2.5, True),
    'none': None,
    'empty': {},
  }
  masks = {
    'layers': [Layer(mask, None), Layer(np.float32([[1.0, 0.0]]), None)],
    'heads': (None, None, None),
    'none': None,
    'empty': {},
  }
  return params, masks


def test_comes_back_as_nested_dicts():
  params, masks = _network()
  contents = export.deserialize(export.serialize(params, masks))
  _assert_same(
    contents.params,
    {
      'layers': {
        '0': params['layers'][0]._asdict(),
        '1': {'kernel': params['layers'][1].kernel},
      },
      'heads': {'0': np.arange(3, dtype=np.int32), '1': 2.5, '2': True},
    },
  )
  mask = masks['layers'][0].kernel
  _assert_same(contents.masks['layers']['0'], {'kernel': mask, 'bias': None})
  assert contents.masks['heads'] == {'0': None, '1': None, '2': None}


@pytest.mark.parametrize('as_shapes', [False, True])
def test_comes_back_like(as_shapes):
  params, masks = _network()
  like = jax.eval_shape(lambda: params) if as_shapes else params
  if as_shapes:  # eval_shape makes Python scalars weakly typed 32-bit arrays
    params = jax.tree.map(jnp.asarray, params)
  contents = export.deserialize(export.serialize(params, masks), like=like)
  _assert_same(contents.params, params)
  _assert_same(contents.masks, masks)


def test_a_tree_may_be_an_array_or_nothing():
  params = np.arange(3.0)
  assert _bits(export.deserialize(export.serialize(params)).params) == _bits(
    params
  )
  assert export.deserialize(export.serialize({})) == ({}, {}, {})


def test_names_may_be_anything():
  params = {'mlp/~/linear_0': {'w': np.ones(2)}, '': {'"\\✓': np.ones(1)}}
  contents = export.deserialize(export.serialize(params))
  _assert_same(contents.params, params)


def test_after_training(tmp_path):
  """The whole way, where a mask variable stands for a block."""
  tx = scl_jax.sparsify(
    optax.adam(0.1), scl_jax.scl(penalty=0.5, granularity=(2, 2))
  )
  params = {
    'kernel': jax.random.normal(jax.random.key(0), (8, 6)),
    'bias': jnp.zeros(6),
  }
  state = tx.init(params)
  update = jax.jit(tx.update)
  for _ in range(3):
    updates, state = update(params, state, params)
    params = optax.apply_updates(params, updates)
  masks = scl_jax.get_masks(state)
  path = tmp_path / 'network.safetensors'
  scl_jax.save(path, params, masks, {'accuracy': 0.5, 'classes': ['a', 'ü']})
  loaded = scl_jax.load(path)
  _assert_same(loaded.params, scl_jax.apply_masks(params, masks))
  _assert_same(loaded.masks, masks)
  assert loaded.metadata == {'accuracy': 0.5, 'classes': ['a', 'ü']}


def test_small_masks_are_expanded():
  params = np.ones((4, 6), np.float32)
  params[:, 3:] = 0
  contents = export.deserialize(
    export.serialize(params, np.float32([[1.0, 0.0]]))
  )
  np.testing.assert_array_equal(contents.masks, params)


def test_nnx():
  model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
  params = nnx.state(model, nnx.Param)
  data = export.serialize(params)
  _assert_same(
    export.deserialize(data).params, nnx.to_pure_dict(nnx.state(model))
  )
  restored = export.deserialize(data, like=params).params
  nnx.update(model, restored)
  assert model(jnp.ones((1, 3))).shape == (1, 2)


def test_sharded(mesh):
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('d'))
  params = jax.device_put(jnp.arange(8.0), sharding)
  masks = jax.device_put((params > 0).astype(jnp.float32), sharding)
  contents = export.deserialize(export.serialize(params, masks))
  assert _bits(contents.params) == _bits(params)


def test_negative_zeros_are_kept_where_live_alone():
  params = np.float32([-0.0, -0.0])
  contents = export.deserialize(export.serialize(params, np.float32([1, 0])))
  np.testing.assert_array_equal(np.signbit(contents.params), [True, False])


def test_the_same_network_gives_the_same_file():
  params, masks = _network()
  metadata = {'b': 1, 'a': {'sha256': '0' * 64}}
  data = export.serialize(params, masks, metadata)
  assert export.serialize(params, masks, metadata) == data
  assert export.deserialize(data).metadata == metadata


@pytest.mark.parametrize(
  ('params', 'masks', 'message'),
  [
    ({'w': np.ones(2)}, {'w': np.array([1, 0])}, "0 where .* 'w' is not"),
    ({'w': np.array([1, np.nan])}, {'w': np.array([1, 0])}, 'effective'),
    ({'w': np.ones(2)}, {'w': np.array([1, 0.5])}, "0 and 1 only; 'w'"),
    ({'w': np.ones(2)}, {'w': np.array([1, np.nan])}, 'only'),
    ({'w': np.ones(2)}, {'w': np.ones(3)}, 'do not fit'),
    ({'w': np.ones(2)}, {'v': np.ones(2)}, "'v'"),
    ({'w': np.ones(2, complex)}, None, "'w' is complex128"),
    ({'w': np.ones(2, '>f4')}, None, "'w' is >f4"),
    ({'w': 'text'}, None, 'arrays of numbers'),
    ({'a': {'b': 1}, 'a/b': 1}, None, 'same path'),
  ],
)
def test_refuses_what_it_cannot_keep(params, masks, message):
  with pytest.raises(ValueError, match=message):
    export.serialize(params, masks)


@pytest.mark.parametrize(
  'metadata',
  [
    {1: 2},
    {'a': (1, 2)},
    {'a': np.float32(1)},
    {'a': float('nan')},
    {'a': {'b': {1, 2}}},
    'hello',
    [1],
    5,
  ],
)
def test_refuses_metadata_that_json_would_change(metadata):
  with pytest.raises(ValueError, match='metadata must be a JSON object'):
    export.serialize({}, metadata=metadata)


def _struct(shape, dtype=np.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
  ('like', 'message'),
  [
    ({'w': _struct((3,)), 'b': _struct(())}, r"'w' is float32 of shape \(3,\)"),
    ({'w': _struct((2,), np.int32), 'b': _struct(())}, "'w' is int32"),
    ({'w': _struct((2,))}, r"like has not:\n  'b'"),
    (
      {'w': _struct((2,)), 'b': _struct(()), 'c': _struct(())},
      "leaf 'c' that the file has not",
    ),
  ],
)
def test_refuses_what_does_not_fit(like, message):
  data = export.serialize({'w': np.ones(2, np.float32), 'b': np.float32(1)})
  with pytest.raises(ValueError, match=message) as caught:
    export.deserialize(data, like=like)
  assert not isinstance(caught.value, export.FileFormatError)


def test_a_huge_network_needs_permission():
  """2**22 pruned connections take 32 MiB with their mask."""
  array = np.zeros((), np.float32)
  huge = np.broadcast_to(array, (2**11, 2**11))
  data = export.serialize({'w': huge}, {'w': huge})
  assert len(data) < 1000
  with pytest.raises(export.FileFormatError, match='max_bytes'):
    export.deserialize(data, max_bytes=2**25 - 1)
  contents = export.deserialize(data, max_bytes=2**25)
  assert contents.params['w'].shape == huge.shape


def test_files_are_named_in_errors(tmp_path):
  path = tmp_path / 'network.safetensors'
  path.write_bytes(b'')
  with pytest.raises(export.FileFormatError, match=r'network\.safetensors: '):
    export.load(path)
  with pytest.raises(FileNotFoundError):
    export.load(tmp_path / 'other')
  with pytest.raises(TypeError, match=r'os\.PathLike object, not int'):
    export.load(1)  # pyright: ignore[reportArgumentType]
  with pytest.raises(export.FileFormatError):
    export.load('/dev/zero')
  assert issubclass(export.FileFormatError, ValueError)


def test_without_safetensors(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'safetensors.numpy', None)
  with pytest.raises(ImportError, match=r'scl_jax\[export\]'):
    export.serialize({})
