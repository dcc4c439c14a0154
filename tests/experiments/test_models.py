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
"""Names and sizes of the models."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.models import layers
from experiments.models import resnet
from experiments.models import vgg
from experiments.models import vit
from experiments.models import wide_resnet
import scl_jax


def count(params):
  return sum(p.size for p in jax.tree.leaves(params))


@pytest.mark.parametrize(
  ('name', 'parameters', 'weights', 'macs'),
  [
    ('lenet300', 266_610, 266_200, 266_200),
    ('lenet5', 431_080, 430_500, 2_293_000),
  ],
)
def test_lenets_have_the_published_sizes(name, parameters, weights, macs):
  model = models.create_model(name, 10)
  images = jnp.zeros((1, 28, 28, 1))
  params = model.init(jax.random.key(0), images)['params']
  assert count(params) == parameters
  chosen = scl_jax.prunable(params)
  prunable = jax.tree.map(lambda p, c: p if c else None, params, chosen)
  assert count(prunable) == weights
  costs = scl_jax.costs(
    lambda p, x: model.apply({'params': p}, x), params, images
  )
  total = jax.tree.map(lambda p, c: p.size * c, params, costs)
  assert sum(jax.tree.leaves(total)) == macs


def test_pooling_and_its_gradient():
  """Entries that are equally large share it."""
  windows = np.array(
    [[[1, 4], [2, 3]], [[5, 5], [0, 1]], [[7, 7], [7, 7]], [[0, -1], [0, -2]]],
    np.float32,
  )
  shares = np.array(
    [[[0, 1], [0, 0]], [[0.5, 0.5], [0, 0]], np.full((2, 2), 0.25),
     [[0.5, 0], [0.5, 0]]]
  )  # fmt: skip
  found, pull = jax.vjp(layers.max_pool_2x2, windows[..., None])
  np.testing.assert_array_equal(found.ravel(), [4, 5, 7, 0])
  (gradient,) = pull(jnp.full_like(found, 4.0))
  np.testing.assert_array_equal(gradient[..., 0], 4 * shares)


def test_gradient_of_pooling_does_not_depend_on_rounding():
  """XLA may compute twice what is pooled, and round it in two ways."""
  x = np.random.default_rng(0).normal(size=(8, 8, 8, 6)).astype(np.float32)

  def loss(scale, shift):
    return jnp.sin(layers.max_pool_2x2(x * scale + shift)).sum()

  gradient = jax.grad(loss, argnums=(0, 1))
  args = (jnp.full(6, 1.3), jnp.full(6, 0.1))
  fused = jax.jit(
    gradient, compiler_options={'xla_backend_optimization_level': 0}
  )
  expected = gradient(*args)  # op by op, so it is computed once
  for ours, theirs in zip(fused(*args), expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize(
  ('name', 'size', 'classes', 'parameters', 'weights'),
  [
    ('resnet8', 32, 10, 79_338, 78_656),
    ('resnet20', 32, 10, 269_722, 268_336),
    ('gated_resnet20', 32, 10, 273_504, 272_016),
    ('resnet32', 32, 10, 464_154, 461_872),
    ('resnet56', 32, 10, 853_018, 848_944),
    ('vgg16', 32, 10, 14_724_042, 14_715_584),
    ('gated_vgg16', 32, 10, 14_855_277, 14_842_400),
    ('vgg19', 32, 10, 20_035_018, 20_024_000),
    ('wide_resnet_22_2', 32, 10, 1_079_642, 1_076_912),
    ('resnet50', 224, 1000, 25_557_032, 25_502_912),
    ('mobilenet', 224, 1000, 4_231_976, 4_209_088),
    ('mobilenet_32x32', 32, 10, 3_217_226, 3_195_328),
    ('vit', 32, 10, 2_693_194, 2_677_632),
  ],
)
def test_sizes(name, size, classes, parameters, weights):
  model = models.create_model(name, classes)
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  params = variables['params']
  assert count(params) == parameters
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
  # Leaves of these ranks, without their sizes.
  small = jax.tree.map(lambda p: np.zeros((1,) * p.ndim, p.dtype), params)
  chosen = scl_jax.prunable(small)
  prunable = jax.tree.map(lambda p, c: p if c else None, params, chosen)
  assert count(prunable) == weights
  logits = jax.eval_shape(model.apply, variables, images)
  assert logits.shape == (2, classes)


# Of each module the first one: others are deeper or wider.
ONE_OF_EACH = {
  getattr(make, 'func', make): name
  for name, make in reversed(models.MODELS.items())
}.values()


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_all_take_part_in_training(name):
  """Every parameter has a gradient, and bfloat16 leaves the weights float32."""
  size = 28 if name.startswith('lenet') else 32
  model = models.create_model(name, 10, 'bfloat16')
  images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)

  def loss(params, state, x):
    logits, state = model.apply(
      {'params': params, **state}, x, train=True, mutable=list(state)
    )
    return logits.astype(jnp.float32).sum(), (logits, state)

  state = {k: v for k, v in variables.items() if k != 'params'}
  grads, (logits, new_state) = jax.eval_shape(
    jax.grad(loss, has_aux=True), variables['params'], state, images
  )
  assert logits.dtype == jnp.bfloat16
  for tree in (grads, new_state):
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
  assert jax.tree.map(lambda x: x.shape, new_state) == jax.tree.map(
    lambda x: x.shape, state
  )


@pytest.mark.parametrize('name', list(models.MODELS))
def test_features_of_every_kernel_are_known(name):
  """A feature axis is an axis of outputs, and every pattern is needed."""
  size = 28 if name.startswith('lenet') else 32
  model = models.create_model(name, 10)
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  resolve = scl_jax.features.resolve_feature_axes(models.feature_axes(name))
  checked = 0
  for key_path, leaf in jax.tree_util.tree_leaves_with_path(params):
    names = [key.key for key in key_path]
    if names[-1] in ('kernel', 'embedding'):
      axes = resolve('/'.join(names), leaf)
      if names[-2] in ('query', 'key', 'value'):
        assert axes == (1, 2)
      else:
        assert axes == (leaf.ndim - 1,)
      checked += 1
  assert checked
  weights = jax.tree_util.tree_map_with_path(
    lambda path, p: p if path[-1].key in ('kernel', 'embedding') else None,
    params,
  )
  scl_jax.features.check_feature_axes(models.feature_axes(name), weights)


@pytest.mark.parametrize('size', [1, 2, 5])
def test_gathered_convolution_is_a_convolution(size):
  images = jax.random.normal(jax.random.key(1), (3, size, size, 4))
  gathered = layers.Conv3x3(6, gather=True)
  params = gathered.init(jax.random.key(0), images)
  reference = nn.Conv(6, (3, 3), use_bias=False)
  np.testing.assert_allclose(
    gathered.apply(params, images),
    reference.apply(params, images),
    rtol=1e-5,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    layers.Conv3x3(6, gather=False).apply(params, images),
    reference.apply(params, images),
    rtol=1e-5,
    atol=1e-5,
  )


def test_resnet8_sees_each_pixel_of_a_block_as_a_channel():
  """Moving a pixel within its block moves it to another channel alone."""
  images = np.zeros((1, 4, 4, 1), np.float32)
  images[0, 2, 1, 0] = 1
  blocks = resnet._blocks_to_channels(jnp.asarray(images), 2)
  assert blocks.shape == (1, 2, 2, 4)
  assert np.argwhere(np.asarray(blocks)).tolist() == [[0, 1, 0, 1]]


def test_option_a_pads_channels_and_skips_pixels():
  x = jnp.arange(2 * 4 * 4 * 2.0).reshape(2, 4, 4, 2) + 1
  y = resnet._option_a(x, 4, 2)
  np.testing.assert_array_equal(y[..., 1:3], x[:, ::2, ::2])
  assert not y[..., 0].any()
  assert not y[..., 3].any()


def total_macs(model, variables, images):
  costs = scl_jax.costs(model.apply, variables, images)
  total = jax.tree.map(lambda p, c: p.size * c, variables, costs)
  return sum(jax.tree.leaves(total))


@pytest.mark.parametrize('depth', [20, 32])
def test_macs_of_resnets_by_hand(depth):
  """Two convolutions of 3x3 a block; shortcuts are free."""
  n = (depth - 2) // 6
  expected = 32 * 32 * 9 * 3 * 16 + 64 * 10
  expected += 2 * n * 32 * 32 * 9 * 16 * 16
  expected += 16 * 16 * 9 * (16 * 32 + (2 * n - 1) * 32 * 32)
  expected += 8 * 8 * 9 * (32 * 64 + (2 * n - 1) * 64 * 64)
  model, images = resnet.ResNet(depth), jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  assert total_macs(model, variables, images) == expected


@pytest.mark.parametrize('name', ['lenet300', 'lenet5'])
def test_macs_of_lenets_against_xla(name):
  model, images = models.create_model(name, 10), jnp.zeros((4, 28, 28, 1))
  variables = model.init(jax.random.key(0), images)
  analysis = jax.jit(model.apply).lower(variables, images).compile()
  flops = analysis.cost_analysis()['flops']
  macs = total_macs(model, variables, images)
  assert macs == pytest.approx(flops / 2, rel=0.02)


def test_unknown_names_and_depths():
  images = jnp.zeros((1, 32, 32, 3))
  with pytest.raises(ValueError, match=r'lenet300, lenet5, .*; got'):
    models.create_model('lenet', 10)
  with pytest.raises(ValueError, match=r"dtype must be.*got 'int8'"):
    models.create_model('lenet5', 10, 'int8')
  for model, message in (
    (resnet.ResNet(18), '6 n \\+ 2'),
    (wide_resnet.WideResNet(20), '6 n \\+ 4'),
    (vgg.VGG(11), '16 or 19'),
  ):
    with pytest.raises(ValueError, match=message):
      model.init(jax.random.key(0), images)
  for model in (vgg.VGG(16), vit.ViT(), resnet.ResNet(8, block=2)):
    with pytest.raises(ValueError, match='divisible'):
      model.init(jax.random.key(0), images[:, :31])


@pytest.mark.parametrize('shape', [(16, 16), (28, 28), (32, 20)])
def test_sizes_that_lenet5_takes(shape):
  images = jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)
  jax.eval_shape(
    models.create_model('lenet5', 10).init, jax.random.key(0), images
  )


@pytest.mark.parametrize('shape', [(8, 8), (12, 12), (28, 18), (23, 28)])
def test_sizes_that_lenet5_refuses(shape):
  images = jax.ShapeDtypeStruct((1, *shape, 1), jnp.float32)
  with pytest.raises(ValueError, match='multiples of 4 and at least 16; got'):
    jax.eval_shape(
      models.create_model('lenet5', 10).init, jax.random.key(0), images
    )
