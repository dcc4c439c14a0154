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

"""Chains of products, with and without weights, and inputs that nobody reads.

What a product writes must lie as the next one reads it.
"""

import engine_checks
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax.inference import program as program_lib

pytest.importorskip('numba')


@pytest.fixture(autouse=True, params=['sparse', 'dense'])
def ways(request, monkeypatch):
  engine_checks.sparse_and_in_parts(monkeypatch)
  clock = engine_checks.Clock(last=request.param == 'sparse')
  monkeypatch.setattr(program_lib, 'timing', clock)


def normal(*shape):
  rng = np.random.default_rng(sum(shape))
  return rng.normal(size=shape).astype(np.float32)


def conv(x, kernel):
  """Of as many groups as the kernel's shape says."""
  return lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=x.shape[-1] // kernel.shape[2],
  )  # fmt: skip


def layers(params, x):
  """A product with each kernel, the vectors added; nothing in between."""
  for leaf in params:
    apply = {1: jnp.add, 2: jnp.matmul, 4: conv}[leaf.ndim]
    x = apply(x, leaf)
  return x


CHAINS = {
  'dense': [(4, 4), (4, 4), (4,), (4, 4)],
  'dense, narrower': [(4, 3), (3, 3)],
  'convolutions': [(3, 3, 4, 4), (3, 3, 4, 4)],
  'separable': [(3, 3, 1, 4), (1, 1, 4, 4)],
  'separable, biases': [(3, 3, 1, 4), (4,), (1, 1, 4, 4), (4,)],
  'inverted': [(1, 1, 4, 6), (3, 3, 1, 6), (1, 1, 6, 4)],
  'groups': [(3, 3, 4, 4), (3, 3, 2, 4)],
  'dense, then padded': [(4, 5), (5,), (3, 3, 5, 4)],
  'padded, then dense': [(3, 3, 4, 4), (4, 4), (5, 5, 1, 4), (4, 3)],
}


@pytest.mark.parametrize('name', CHAINS)
def test_products_that_follow_one_another(name):
  params = [normal(*shape) for shape in CHAINS[name]]
  masks = engine_checks.masks_like(np.random.default_rng(0), params, 0.6)
  engine_checks.check(layers, params, masks, normal(3, 6, 5, 4))


def test_dense_layer_is_fused_where_a_convolution_pads_its_result():
  def fn(p, x):
    y = jax.nn.relu(x @ p['w'] + p['b'] + x)
    return conv(y, p['k']) + y

  params = {'w': normal(4, 4), 'b': normal(4), 'k': normal(3, 3, 4, 4)}
  network = engine_checks.check(fn, params, None, normal(2, 6, 5, 4))
  (plan,) = network.plans.values()
  assert [c.op for c in plan.choices] == ['dot_general', 'conv_general_dilated']


def test_result_lies_as_a_convolution_of_other_axes_reads_it():
  def fn(p, x):
    y = conv(x, p['k'])
    return lax.conv(y, p['l'], (1, 1), 'SAME')  # rows as channels

  params = {'k': normal(3, 3, 4, 4), 'l': normal(2, 6, 3, 3)}
  engine_checks.check(fn, params, None, normal(2, 6, 5, 4))


@pytest.mark.parametrize('padding', ['SAME', 'VALID', [(-1, 2), (1, -1)]])
@pytest.mark.parametrize(
  ('strides', 'dilation', 'groups'),
  [((2, 2), (1, 1), 1), ((3, 1), (1, 2), 1), ((2, 1), (1, 1), 2)],
)
def test_transposed_convolutions(padding, strides, dilation, groups):
  def fn(p, x):
    y = jax.nn.relu(
      lax.conv_transpose(x, p['up'], strides, padding, dilation) + p['b']
    )
    z = lax.conv_general_dilated(  # that strides, too, and has groups
      y, p['k'], (2, 1), [(1, 1), (3, 0)], strides, dilation,
      ('NHWC', 'HWIO', 'NHWC'), groups,
    )  # fmt: skip
    return z, conv(x, p['same'])

  params = {
    'up': normal(2, 3, 4, 6),
    'b': normal(6),
    'k': normal(3, 2, 6 // groups, 4),
    'same': normal(3, 3, 4, 4),
  }
  masks = engine_checks.masks_like(np.random.default_rng(0), params, 0.6)
  engine_checks.check(fn, params, masks, normal(2, 6, 5, 4))


def test_convnext():
  """Dense layers on maps, added to maps that convolutions read."""

  def fn(p, x):
    for block in p['blocks']:
      y = conv(x, block['depthwise'])
      y = (y - y.mean(-1, keepdims=True)) * block['scale']
      y = jax.nn.gelu(y @ block['wide'] + block['bias'])
      x = x + (y @ block['narrow']) * block['gamma']
    return x.mean((1, 2)) @ p['head']

  block = lambda: {
    'depthwise': normal(7, 7, 1, 4) / 7,
    'scale': normal(4),
    'wide': normal(4, 16) / 2,
    'bias': normal(16),
    'narrow': normal(16, 4) / 4,
    'gamma': normal(4),
  }
  params = {'blocks': [block(), block()], 'head': normal(4, 3)}
  masks = engine_checks.masks_like(np.random.default_rng(0), params, 0.5)
  for kept in (None, masks):
    engine_checks.check(
      fn, params, kept, normal(1, 8, 8, 4), batch_sizes=[1, 3]
    )


@pytest.mark.parametrize('closed', ['k', 'w'])
def test_inputs_that_nothing_depends_on(closed):
  def fn(p, x, other):
    y = jax.nn.relu(conv(x, p['k']) + p['b'])
    return y.mean((1, 2)) @ p['w'] + p['c'], other @ p['b']

  params = {'k': normal(3, 3, 4, 5), 'b': normal(5), 'w': normal(5, 2)}
  params['c'] = normal(2)
  masks = {**dict.fromkeys(params), closed: np.zeros_like(params[closed])}
  inputs = normal(1, 6, 6, 4), normal(1, 5)
  engine_checks.check(fn, params, masks, *inputs, batch_sizes=[1, 64])
  engine_checks.check(lambda *a: fn(*a)[0], params, masks, *inputs)
