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
"""NNrelief on Linen models."""

from typing import Any

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import activity_pruning
from experiments import flow
from experiments.models import join
from experiments.models import layers
from experiments.models import wide_resnet
import scl_jax
from scl_jax import tree as tree_lib


class Small(nn.Module):
  """Convolution, normalisation, pooling, join, channels-first flattening."""

  joined: bool = True

  @nn.compact
  def __call__(self, x):
    norm = nn.BatchNorm(use_running_average=True)
    x = nn.relu(norm(nn.Conv(4, (3, 3), use_bias=False)(x)))
    y = nn.Conv(4, (3, 3))(x)
    x = nn.relu(join.Join()(y, x) if self.joined else x + y)
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    x = nn.tanh(nn.Dense(6)(x))
    return nn.Dense(3)(x)


class Tied(nn.Module):
  """A kernel is used a second time, by no layer."""

  activation: Any

  @nn.compact
  def __call__(self, x):
    encoder = nn.Dense(4, use_bias=False, name='encoder')
    x = self.activation(encoder(x))
    return x @ encoder.variables['params']['kernel'].T


class WeightNormed(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.WeightNorm(nn.Dense(3))(x)


class Branches(nn.Module):
  """A join whose branch is the model's input, or is read elsewhere too."""

  of_input: bool

  @nn.compact
  def __call__(self, x):
    y = nn.Dense(5)(x)
    if self.of_input:
      return nn.Dense(2)(join.Join()(x, y))
    z = nn.Dense(5)(nn.relu(y))
    return nn.Dense(2)(join.Join()(y, z))


def layers_of(*layers):
  return nn.Sequential(layers)


@pytest.fixture(scope='module')
def small():
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.uniform(size=(20, 4, 4, 2)), jnp.float32)
  model = Small()
  variables = model.init(jax.random.key(0), images)
  params = variables['params']
  # The first filter of the first layer is never active.
  params['BatchNorm_0']['scale'] = jnp.array([-0.0, 1, 1, 1])
  params['BatchNorm_0']['bias'] = jnp.array([-1.0, 0.1, 0.1, 0.1])
  # The third unit of the dense layer is read by nobody.
  params['Dense_1']['kernel'] = params['Dense_1']['kernel'].at[2].set(0)
  return model, variables, images


class TestFlow:
  def test_who_feeds_whom(self, small):
    found = flow.trace(*small)
    assert list(found.modules) == [
      'Conv_0', 'Conv_1', 'Join_0', 'Dense_0', 'Dense_1',
    ]  # fmt: skip
    eye, none = np.eye(4, dtype=bool), np.zeros((4, 4), bool)
    expected = {
      ('Conv_0', 'Conv_1'): eye,
      ('Conv_1', 'Join_0'): np.hstack([eye, none]),
      ('Conv_0', 'Join_0'): np.hstack([none, eye]),
      # Flattened channels first: four positions of a channel in a row.
      ('Join_0', 'Dense_0'): np.repeat(eye, 4, axis=1),
      ('Dense_0', 'Dense_1'): np.eye(6, dtype=bool),
    }
    assert set(found.feeds) == set(expected)
    for pair, matrix in expected.items():
      np.testing.assert_array_equal(found.feeds[pair], matrix)
    assert set(found.norms) == {('Conv_0', 'BatchNorm_0')}
    for name, in_output in found.in_output.items():
      assert in_output.all() == in_output.any() == (name == 'Dense_1')

  @pytest.mark.parametrize(
    ('model', 'message'),
    [
      (Small(joined=False), 'input of .* comes from several units, of .*Join'),
      (
        layers_of(nn.Dense(4), nn.softmax, nn.Dense(3)),
        "'layers_2' comes from several units, of layers_0",
      ),
      (layers_of(nn.Dense(4), lambda x: x[:, :2], nn.Dense(3)), '2 of the 4'),
      (layers_of(nn.Dense(5), *[nn.Dense(5)] * 2), 'called twice'),
      (
        layers_of(nn.Dense(4), nn.BatchNorm(use_running_average=False)),
        'must use running averages',
      ),
      (layers_of(nn.relu), 'nothing to prune'),
      (Tied(nn.relu), "go into '.output.' in another way"),
      (Tied(jnp.square), "go into '.output.' in another way"),
    ],
  )
  def test_what_is_not_supported(self, model, message):
    shape = (2, 4, 4, 2) if isinstance(model, Small) else (2, 5)
    images = jnp.ones(shape)
    variables = model.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=message):
      flow.trace(model, variables, images)

  def test_mirrored_and_concatenated_features(self):
    mirror = lambda x: jnp.concatenate([nn.relu(x), nn.relu(-x)], axis=-1)
    model = layers_of(nn.Dense(3), mirror, nn.Dense(2))
    images = jnp.ones((1, 4))
    variables = model.init(jax.random.key(0), images)
    (matrix,) = flow.trace(model, variables, images).feeds.values()
    np.testing.assert_array_equal(matrix, np.tile(np.eye(3, dtype=bool), 2))


class TestPrune:
  def prune(self, small, **options):
    options = {'alpha': 0.9, 'conv_alpha': 0.9, **options}
    return activity_pruning.prune(*small, **options)

  def apply(self, small, pruned):
    model, variables, images = small
    params = scl_jax.apply_masks(variables['params'], pruned.masks)
    return model.apply(
      {**variables, 'params': params, 'gates': pruned.gates}, images
    )

  def test_all_of_the_activity_leaves_the_logits(self, small):
    """What goes is exactly 0, never active, or read by nobody."""
    pruned = self.prune(small, alpha=1.0, conv_alpha=1.0)
    model, variables, images = small
    np.testing.assert_allclose(
      self.apply(small, pruned), model.apply(variables, images), rtol=1e-5
    )
    masks = pruned.masks
    # The dead filter is gone with its normalisation, its readers as well.
    np.testing.assert_array_equal(masks['Conv_0']['kernel'][..., 0], 0)
    assert masks['Conv_0']['kernel'][..., 1:].all()
    for leaf in ('scale', 'bias'):
      np.testing.assert_array_equal(masks['BatchNorm_0'][leaf], [0, 1, 1, 1])
    np.testing.assert_array_equal(masks['Conv_1']['kernel'][:, :, 0], 0)
    np.testing.assert_array_equal(pruned.gates['Join_0']['shortcut'][0], 1)
    # The unit that nobody reads.
    np.testing.assert_array_equal(masks['Dense_0']['kernel'][:, 2], 0)
    assert masks['Dense_0']['kernel'][:, 3].all()

  def test_the_first_layer_by_hand(self, small):
    _, variables, images = small
    pruned = self.prune(small, alpha=1.0, conv_alpha=0.6)
    kernel = np.abs(np.asarray(variables['params']['Conv_0']['kernel']))
    maps = jax.lax.conv_general_dilated(
      jnp.abs(images).transpose(0, 3, 1, 2).reshape(40, 4, 4, 1),
      jnp.asarray(kernel.reshape(3, 3, 1, 8)),
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    norms = np.sqrt(np.square(np.asarray(maps)).sum(axis=(1, 2)))
    # [examples, channel of the image, channel of the kernel, filter]
    norms = norms.reshape(20, 2, 2, 4)
    strength = np.stack([norms[:, c, c].mean(0) for c in range(2)])
    larger = strength.max(0) >= 0.6 * strength.sum(0)
    expected = np.where(larger, strength == strength.max(0), True)
    mask = np.asarray(pruned.masks['Conv_0']['kernel'])
    assert (mask == mask[:1, :1]).all()
    alive = mask.any(axis=(0, 1, 2))
    assert alive.any()
    np.testing.assert_array_equal(mask[0, 0][:, alive], expected[:, alive])

  def test_pruning_goes_on_where_it_stopped(self, small):
    model, variables, images = small
    first = self.prune(small)
    variables = {
      **variables,
      'params': scl_jax.apply_masks(variables['params'], first.masks),
      'gates': first.gates,
    }
    second = self.prune((model, variables, images))
    rows = tree_lib.zip_leaves(first, second)
    assert all(np.all(b <= a) for _, a, b in rows if a is not None)
    densities = [float(scl_jax.density(p.masks)) for p in (first, second)]
    assert densities[1] < densities[0] < 0.9

  def test_conv3x3_is_a_convolution(self):
    """On maps where it gathers windows and where it does not."""
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4, 4, 2)))

    def pruned(conv):
      pool = layers.max_pool_2x2
      model = layers_of(
        conv(6), nn.relu, pool, conv(4), lambda x: x.sum((1, 2)), nn.Dense(3)
      )
      variables = model.init(jax.random.key(0), images)
      return self.prune((model, variables, images), conv_alpha=0.6).masks

    plain = lambda features: nn.Conv(features, (3, 3), use_bias=False)
    masks = pruned(layers.Conv3x3)
    chex.assert_trees_all_equal(masks, pruned(plain))
    assert 0 < scl_jax.density(masks) < 0.7

  def test_preactivation_blocks(self):
    """Joins that feed a normalisation and the next join."""
    model = wide_resnet.WideResNet(depth=10, width=1)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 8, 8, 3)))
    variables = model.init(jax.random.key(0), images)
    small = model, variables, images
    pruned = self.prune(small, alpha=1.0, conv_alpha=1.0)
    assert scl_jax.density(pruned.masks) < 0.9  # with some dead filters
    np.testing.assert_allclose(
      self.apply(small, pruned), model.apply(variables, images), rtol=1e-4
    )

  def test_the_released_cut_keeps_less(self, small):
    options = {'cut': 'released', 'norm': 'norm_of_mean'}
    paper = self.prune(small, alpha=1.0, conv_alpha=1.0)
    released = self.prune(small, alpha=1.0, conv_alpha=1.0, **options)
    assert scl_jax.density(released.masks) < scl_jax.density(paper.masks)

  @pytest.mark.parametrize(
    ('model', 'message'),
    [
      (layers_of(nn.Conv(4, (3,), feature_group_count=2)), 'feature_group'),
      (layers_of(nn.Conv(4, (3,), padding='CIRCULAR')), 'CIRCULAR'),
      (
        layers_of(nn.Conv(4, (3,)), nn.ConvTranspose(2, (3,))),
        'layers_1/kernel',
      ),
    ],
  )
  def test_layers_that_are_not_supported(self, model, message):
    images = jnp.ones((2, 8, 2))
    variables = model.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=message):
      self.prune((model, variables, images))

  @pytest.mark.parametrize(
    ('model', 'message'),
    [
      (WeightNormed(), 'applies another kernel'),
      (Branches(of_input=True), 'must come from a layer'),
      (Branches(of_input=False), 'Units of .* read elsewhere too'),
    ],
  )
  def test_what_masks_would_not_close(self, model, message):
    images = jnp.ones((2, 5))
    variables = model.init(jax.random.key(0), images)
    with pytest.raises(ValueError, match=message):
      self.prune((model, variables, images))

  def test_activity_that_is_not_finite(self, small):
    model, variables, images = small
    with pytest.raises(ValueError, match='not finite'):
      self.prune((model, variables, images.at[0, 0, 0, 0].set(jnp.nan)))

  def test_zero_must_be_mapped_to_zero(self):
    model = layers_of(nn.Dense(3), lambda x: nn.relu(x + 1), nn.Dense(2))
    images = jnp.ones((4, 2))
    variables = model.init(jax.random.key(0), images)
    variables['params']['layers_0']['bias'] = jnp.array([-100.0, 5, 5])
    with pytest.raises(ValueError, match="1 units of 'layers_0' were"):
      self.prune((model, variables, images))
