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
"""Tests of features.py."""

import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import features

pytestmark = pytest.mark.usefixtures('strict')


@pytest.mark.parametrize(
  ('path', 'shape', 'expected'),
  [
    # Flax: outputs last.
    ('params/Dense_0/kernel', (4, 3), (-1,)),
    ('params/Conv_0/kernel', (3, 1, 8), (-1,)),
    ('params/Conv_0/kernel', (3, 3, 1, 8), (-1,)),
    ('params/Conv_0/kernel', (3, 3, 3, 1, 8), (-1,)),
    ('params/stem/kernel', (3, 3, 1, 8), (-1,)),
    ('params/ConvTranspose_0/kernel', (3, 1, 8), (-1,)),
    ('params/attention/query/kernel', (8, 2, 4), (-2, -1)),
    ('params/attention/key/kernel', (8, 2, 4), (-2, -1)),
    ('params/attention/value/kernel', (8, 2, 4), (-2, -1)),
    ('params/attention/out/kernel', (2, 4, 8), (-1,)),
    ('params/Embed_0/embedding', (100, 8), (-1,)),
    # Haiku: outputs last.
    ('linear/w', (4, 3), (-1,)),
    ('conv1_d/w', (3, 1, 8), (-1,)),
    ('conv2_d/w', (3, 3, 1, 8), (-1,)),
    ('embed/embeddings', (100, 8), (-1,)),
    # Equinox and PyTorch: outputs first, but for embeddings.
    ('layers/0/weight', (3, 4), (0,)),
    ('conv/weight', (8, 1, 3, 3), (0,)),
    ('layers/0/weight', (8, 1, 3, 3), (0,)),
    ('conv1d/weight', (8, 1, 3), (0,)),
    ('cell/weight_ih', (12, 4), (0,)),
    ('attention/in_proj_weight', (12, 4), (0,)),
    ('embedding/weight', (100, 8), (-1,)),
    ('embed/weight', (100, 8), (-1,)),
    ('embed_tokens/weight', (100, 8), (-1,)),
    ('word_embeddings/weight', (100, 8), (-1,)),
    # Only the layer itself is named: blocks around it are not.
    ('patch_embedding/linear/weight', (6, 16), (0,)),
    ('patch_embed/weight', (6, 16), (0,)),
    ('patch_embed/proj/weight', (6, 3, 4, 4), (0,)),
    ('time_embed/layers/0/weight', (6, 16), (0,)),
    ('embed/weight', (6, 3, 4, 4), (0,)),
    ('ConvMixerAttn_0/attention/query/kernel', (8, 2, 4), (-2, -1)),
    ('ConvMixerAttn_0/attention/out/kernel', (2, 4, 8), (-1,)),
    # A state_dict of PyTorch
    ('encoder.layers.0.fc1.weight', (6, 16), (0,)),
    ('encoder.embeddings.word.embedding.weight', (100, 8), (-1,)),
    # By hand
    ('', (4, 3), (-1,)),
    ('0/1', (4, 3), (-1,)),
    ('w1', (4, 3), (-1,)),
    ('w', (2, 4, 3), (-1,)),
  ],
)
def test_default(path, shape, expected):
  leaf = np.zeros(shape)
  assert features.default_feature_axes(path, leaf) == expected
  positive = tuple(axis % len(shape) for axis in expected)
  assert features.resolve_feature_axes()(path, leaf) == positive


@pytest.mark.parametrize(
  ('path', 'shape'),
  [
    ('params/DenseGeneral_0/kernel', (8, 2, 4)),
    ('params/stack/Dense_0/kernel', (5, 4, 3)),
    ('params/stack/attention/query/kernel', (5, 8, 2, 4)),
    ('params/ConvBlocks_0/Dense_0/kernel', (5, 4, 3)),
    ('params/ScanBlock_0/attention/out/kernel', (5, 2, 4, 8)),
    ('params/ScanBlock_0/Conv_0/kernel', (5, 3, 4, 8)),
    ('params/VmapConv_0/kernel', (5, 3, 4, 8)),
    ('kernel', (8, 2, 4)),
    ('params/moe/kernel', (2, 2, 3, 4, 5)),
    ('__layer_stack_no_per_layer/linear/w', (3, 4, 4)),
    ('__layer_stack_no_per_layer/conv2_d/w', (3, 3, 3, 4, 4)),
    ('layers/0/weight', (3, 6, 4)),
  ],
)
def test_ambiguous_kernels_raise(path, shape):
  with pytest.raises(ValueError, match='do not follow') as info:
    features.default_feature_axes(path, np.zeros(shape))
  assert repr(path) in str(info.value)
  assert str(shape) in str(info.value)
  assert 'feature_axes=' in str(info.value)


@pytest.mark.parametrize(
  ('feature_axes', 'expected'),
  [
    (0, (0,)),
    (-1, (2,)),
    ((-1, 0), (0, 2)),
    ([1], (1,)),
    ((), ()),
    ((0, 1, 2), (0, 1, 2)),
    (lambda path, leaf: (leaf.ndim - 2, -1), (1, 2)),
    (lambda path, leaf: path.count('/'), (1,)),
    ({'a/kernel': (0, -1), '.*': (1,)}, (0, 2)),
    ({'.*': -2, 'a/kernel': (0, -1)}, (1,)),
  ],
)
def test_resolved_axes_are_sorted_and_positive(feature_axes, expected):
  resolve = features.resolve_feature_axes(feature_axes)
  assert resolve('a/kernel', jnp.zeros((2, 3, 4))) == expected


def test_a_mapping_leaves_other_leaves_to_the_default():
  resolve = features.resolve_feature_axes({'proj/kernel': (-2, -1)})
  assert resolve('proj/kernel', jnp.zeros((2, 3, 4))) == (1, 2)
  assert resolve('Dense_0/kernel', jnp.zeros((2, 3))) == (1,)
  # A pattern is for the whole path.
  with pytest.raises(ValueError, match='do not follow'):
    resolve('deep/proj/kernel', jnp.zeros((2, 3, 4)))


@pytest.mark.parametrize('axes', [(2,), (-3,), (0, 5), 2])
def test_axes_out_of_range(axes):
  with pytest.raises(ValueError, match=r"feature_axes.*range for 'w'.*\(4, 3"):
    features.resolve_feature_axes(axes)('w', jnp.zeros((4, 3)))


@pytest.mark.parametrize('axes', [(0, 0), (1, -1)])
def test_axes_named_twice(axes):
  with pytest.raises(ValueError, match=r"feature_axes.*'w' twice"):
    features.resolve_feature_axes(axes)('w', jnp.zeros((4, 3)))


def test_check_feature_axes():
  weights = {'a': {'kernel': jnp.zeros((4, 3)), 'bias': None}}
  features.check_feature_axes(None, weights)
  features.check_feature_axes({'a/.*': (0,)}, weights)
  with pytest.raises(ValueError, match='out of range'):
    features.check_feature_axes((2,), weights)
  with pytest.raises(ValueError, match=r"'b/.*' matches no prunable") as info:
    features.check_feature_axes({'a/.*': (0,), 'b/.*': (0,)}, weights)
  assert "'a/kernel'" in str(info.value)
  # What is not prunable is not there.
  with pytest.raises(ValueError, match='matches no prunable'):
    features.check_feature_axes({'a/bias': (0,)}, weights)
