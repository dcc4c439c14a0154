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
"""Tests of metrics.py."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import metrics

pytestmark = pytest.mark.usefixtures('strict')


def _masks(dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    'conv': {'kernel': (rng.random((3, 3, 2, 5)) < 0.3).astype(dtype)},
    'fc': {'kernel': (rng.random((6, 20)) < 0.1).astype(dtype), 'bias': None},
    'gone': {'kernel': np.zeros((4, 3), dtype)},
  }


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16, np.int8])
def test_against_numpy(dtype):
  masks = _masks(dtype)
  live = [np.count_nonzero(m) for m in jax.tree.leaves(masks)]
  sizes = [m.size for m in jax.tree.leaves(masks)]

  count = jax.jit(metrics.live_connections)(masks)
  assert jax.tree.leaves(count) == live
  assert all(leaf.dtype == jnp.int32 for leaf in jax.tree.leaves(count))
  assert count['fc']['bias'] is None

  density = jax.jit(metrics.density)(masks)
  assert density.dtype == jnp.float32
  np.testing.assert_allclose(density, sum(live) / sum(sizes), rtol=1e-6)

  layers = jax.jit(metrics.layer_density)(masks)
  expected = [n / size for n, size in zip(live, sizes, strict=True)]
  np.testing.assert_allclose(jax.tree.leaves(layers), expected, rtol=1e-6)
  chex.assert_tree_shape_prefix(layers, ())


def test_a_leaf_without_connections_is_all_there():
  masks = {'empty': jnp.ones((0, 3)), 'w': jnp.eye(2)}
  with jax.debug_nans(True):
    found = metrics.layer_density(masks)
  assert found == {'empty': 1.0, 'w': 0.5}
  assert metrics.dead_features(masks) == {'empty': 0, 'w': 0}


def test_dead_features_against_numpy():
  masks = _masks()
  expected = [
    sum(not mask[..., f].any() for f in range(mask.shape[-1]))
    for mask in jax.tree.leaves(masks)
  ]
  assert expected[1] > 0
  assert expected[2] == 3
  dead = jax.jit(metrics.dead_features)(masks)
  assert jax.tree.leaves(dead) == expected
  assert jax.tree.structure(dead) == jax.tree.structure(masks)


def test_dead_features_on_other_axes():
  masks = {'kernel': np.zeros((4, 2, 3), bool), 'weight': np.eye(2, 3)}
  masks['kernel'][0, 1, 2] = True
  dead = metrics.dead_features(masks, {'kernel': (1, 2)})
  assert jax.tree.leaves(dead) == [5, 0]
  assert metrics.dead_features(masks, lambda path, leaf: ())['kernel'] == 0
  dead = metrics.dead_features(masks, {'kernel': 0, 'weight': -1})
  assert jax.tree.leaves(dead) == [3, 1]
  with pytest.raises(ValueError, match='feature axes'):
    metrics.dead_features(masks)


def test_negative_zero_is_not_live_and_anything_else_is():
  masks = {'w': np.array([[-0.0, 0.0, 0.5, 1.0]], np.float32)}
  assert metrics.live_connections(masks)['w'] == 2
  assert metrics.density(masks) == 0.5


def test_vmap():
  masks = {'w': np.tril(np.ones((3, 4, 4), np.float32))}
  masks['w'][1] = 0
  assert jax.vmap(metrics.density)(masks).tolist() == [0.625, 0, 0.625]


@pytest.mark.parametrize('masks', [{}, {'w': None}, {'w': np.zeros((0, 3))}])
def test_density_of_nothing(masks):
  with pytest.raises(ValueError, match='masks holds no connection'):
    metrics.density(masks)


@pytest.mark.parametrize(
  'measure', [metrics.density, metrics.layer_density, metrics.live_connections]
)
def test_what_is_no_array_has_no_density(measure):
  with pytest.raises(ValueError, match=r"masks must hold.*'w' is 'a'"):
    measure({'w': 'a'})
  with pytest.raises(ValueError, match=r"masks must hold.*'w' is Shape"):
    measure({'w': jax.ShapeDtypeStruct((2,), jnp.float32)})
  with pytest.raises(ValueError, match="'w' is of <U1"):
    measure({'w': np.array(['a', 'b'])})
  state = scl_jax.sparsify(optax.adam(0.1), scl_jax.scl(0.1)).init(
    {'w': jnp.ones((2, 2))}
  )
  with pytest.raises(ValueError, match=r'give get_masks\(opt_state\)'):
    measure(state)
