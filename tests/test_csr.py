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
"""Tests of csr.py, through SciPy and jax.experimental.sparse."""

import os

import jax
from jax.experimental import sparse
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import scl_jax


def _network(dtype=np.float32):
  rng = np.random.default_rng(0)
  masks = {
    'conv': {'kernel': rng.random((3, 3, 4, 5)) < 0.2, 'bias': None},
    'head/0': {'weight': rng.random((7, 5)) < 0.3},
    'scale': np.array(True),
    'vector': rng.random(6) < 0.5,
    'empty': np.zeros((0, 3), bool),
  }
  params = jax.tree.map(
    lambda mask: (rng.normal(size=mask.shape) * mask).astype(dtype), masks
  )
  params['conv']['bias'] = np.ones(5, dtype)
  return params, masks


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'int32', 'complex64'])
def test_scipy_reads_what_is_written(tmp_path, dtype):
  params, masks = _network(dtype)
  files = scl_jax.save_csr(tmp_path / 'new', params, masks)
  assert sorted(os.listdir(tmp_path / 'new')) == [
    'conv.kernel.npz',
    'empty.npz',
    'head.0.weight.npz',
    'scale.npz',
    'vector.npz',
  ]
  expected = {
    'conv/kernel': params['conv']['kernel'].reshape(36, 5),
    'head/0/weight': params['head/0']['weight'],
    'scale': params['scale'].reshape(1, 1),
    'vector': params['vector'].reshape(1, 6),
    'empty': params['empty'],
  }
  assert files.keys() == expected.keys()
  for path, dense in expected.items():
    matrix = scipy.sparse.load_npz(files[path])
    matrix.check_format()
    assert matrix.format == 'csr'
    assert matrix.dtype == dense.dtype
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    np.testing.assert_array_equal(matrix.toarray(), dense)


@pytest.mark.parametrize('dtype', [np.float32, np.float16, jnp.bfloat16])
def test_bcsr_is_the_same_matrix(dtype):
  params, masks = _network(dtype)
  converted = scl_jax.to_bcsr(params, masks)
  assert converted['conv']['bias'] is params['conv']['bias']
  kernel = converted['conv']['kernel']
  assert isinstance(kernel, sparse.BCSR)
  assert kernel.dtype == dtype
  np.testing.assert_array_equal(
    kernel.todense(), params['conv']['kernel'].reshape(36, 5)
  )
  head = converted['head/0']['weight']
  assert head.nse == masks['head/0']['weight'].sum()


def test_bcsr_multiplies():
  params, masks = _network()
  matrix = scl_jax.to_bcsr(params, masks)['head/0']['weight']
  x = jnp.arange(5.0)
  np.testing.assert_allclose(
    matrix @ x, params['head/0']['weight'] @ x, rtol=1e-5
  )


def test_live_zeros_are_stored(tmp_path):
  params, masks = {'w': np.zeros((2, 2))}, {'w': np.eye(2)}
  files = scl_jax.save_csr(tmp_path, params, masks)
  assert scipy.sparse.load_npz(files['w']).nnz == 2
  assert scl_jax.to_bcsr(params, masks)['w'].nse == 2


def test_small_masks_are_expanded():
  params, masks = (
    {'w': jnp.array([[1, 1, 0, 0.0]] * 4)},
    {'w': jnp.array([[1.0, 0]])},
  )
  dense = scl_jax.to_bcsr(params, masks)['w'].todense()
  np.testing.assert_array_equal(dense, [[1, 1, 0, 0]] * 4)


@pytest.mark.parametrize(
  ('params', 'message'),
  [
    ({'w': np.zeros(2, np.float16)}, "of float16: convert 'w'"),
    ({'w': jnp.zeros(2, jnp.bfloat16)}, 'of bfloat16'),
    ({'w': jnp.zeros(2, jnp.float8_e4m3b11fnuz)}, 'of float8_e4m3b11fnuz'),
    ({'a': {'b': np.zeros(2)}, 'a.b': np.zeros(2)}, "file 'a.b.npz'"),
    ({'w': np.zeros((3, 3))}, 'do not fit'),
    ({'w': np.ones(2)}, 'effective'),
  ],
)
def test_refusals_come_before_any_file(tmp_path, params, message):
  masks = jax.tree.map(lambda _: np.array([0, 1]), params)
  with pytest.raises(ValueError, match=message):
    scl_jax.save_csr(tmp_path, params, masks)
  assert not os.listdir(tmp_path)
