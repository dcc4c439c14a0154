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
"""Random networks for the tests of compaction: plain functions and dicts.

A network is a list of blocks; each adds its params and returns a function of
params and features. `random_masks` makes what training makes, and worse.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS = {
  'relu': jax.nn.relu,
  'tanh': jnp.tanh,
  'gelu': jax.nn.gelu,
  'sigmoid': jax.nn.sigmoid,
}
MASKS = ('ones', 'dense', 'sparse', 'rows', 'columns', 'zeros')


class Net:
  """Collects params; `fn(params, x)` runs all blocks."""

  def __init__(self, rng):
    self.rng = rng
    self.params = {}
    self.layers = []

  def add(self, shape, *, scale=None, positive=False):
    name = f'p{len(self.params)}'
    values = self.rng.normal(size=shape)
    if len(shape) > 1:
      values *= (scale or 1.5) / np.sqrt(np.prod(shape[:-1]))
    elif self.rng.random() < 0.2:
      values *= 0
    if positive:
      values = np.abs(values) + 0.1
    self.params[name] = jnp.asarray(values, jnp.float32)
    return name

  def activation(self):
    return ACTIVATIONS[self.rng.choice(list(ACTIVATIONS))]

  def fn(self, params, x):
    for layer in self.layers:
      x = layer(params, x)
    return x


def dense(net, width, size, *, bias=True, act=True):
  w, b = net.add((width, size)), net.add((size,)) if bias else None
  f = net.activation() if act else lambda x: x
  return lambda p, x: f(x @ p[w] + (p[b] if b else 0))


def conv(net, width, size, *, groups=1):
  padding = net.rng.choice(['SAME', 'VALID'])
  taps = net.rng.choice([1, 3])
  w = net.add((taps, taps, width // groups, size))
  post = norm(net, size) if net.rng.random() < 0.5 else bias(net, size)
  f = net.activation()

  def apply(p, x):
    x = lax.conv_general_dilated(
      x, p[w], (1, 1), padding, feature_group_count=groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip
    return f(post(p, x))

  return apply


def bias(net, size):
  b = net.add((size,))
  return lambda p, x: x + p[b]


def norm(net, size):
  """BatchNorm with running statistics."""
  mean, var = net.add((size,)), net.add((size,), positive=True)
  scale, shift = net.add((size,)), net.add((size,))
  return lambda p, x: (
    (x - p[mean]) * (lax.rsqrt(p[var] + 1e-5) * p[scale]) + p[shift]
  )


def layer_norm(net, size):
  scale, shift = net.add((size,)), net.add((size,))

  def apply(p, x):
    mean = x.mean(-1, keepdims=True)
    var = jnp.maximum(0, (x * x).mean(-1, keepdims=True) - mean**2)
    return (x - mean) * lax.rsqrt(var + 1e-5) * p[scale] + p[shift]

  return apply


def residual(inner):
  return lambda p, x: x + inner(p, x)


def chain(*layers):
  def apply(p, x):
    for layer in layers:
      x = layer(p, x)
    return x

  return apply


def concatenated(*layers):
  return lambda p, x: jnp.concatenate([f(p, x) for f in layers], -1)


def pool(net):
  def mean(p, x):
    total = lax.reduce_window(
      x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID'
    )
    return total / 4

  def most(p, x):
    return lax.reduce_window(
      x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME'
    )

  def reshaped(p, x):
    n, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))

  return [mean, most, reshaped][net.rng.integers(3)]


def attention(net, width, heads=2, depth=3):
  """Multi-head attention, with heads as an axis or flattened."""
  q, k, v = (net.add((width, heads, depth), scale=2.5) for _ in range(3))
  qb, vb = net.add((heads, depth)), net.add((heads, depth))
  out, flat = net.add((heads * depth, width)), net.rng.random() < 0.5

  def project(x, w):
    if flat:
      y = x @ w.reshape(width, -1)
      return y.reshape(*x.shape[:-1], heads, depth)
    return jnp.einsum('bti,ihd->bthd', x, w)

  def apply(p, x):
    query = project(x, p[q]) + p[qb]
    scores = jnp.einsum('bthd,bshd->bhts', query, project(x, p[k]))
    values = project(x, p[v]) + p[vb]
    mixed = jnp.einsum('bhts,bshd->bthd', jax.nn.softmax(scores), values)
    return mixed.reshape(*mixed.shape[:2], -1) @ p[out]

  return apply


def vector_net(rng, blocks):
  """Dense layers, residual blocks, concatenations, normalisation."""
  net, width = Net(rng), 4
  net.layers.append(dense(net, 4, width := int(rng.integers(2, 8))))
  for block in blocks:
    size = int(rng.integers(1, 8))
    if block == 'layer':
      net.layers.append(dense(net, width, size, bias=rng.random() < 0.7))
      width = size
    elif block == 'residual':
      net.layers.append(
        residual(chain(dense(net, width, size), dense(net, size, width)))
      )
    elif block == 'concatenation':
      net.layers.append(
        concatenated(dense(net, width, size), dense(net, width, 2))
      )
      width = size + 2
    else:
      make = norm if rng.random() < 0.5 else layer_norm
      net.layers.append(make(net, width))
  net.layers.append(dense(net, width, 3, act=False))
  return net, jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)


def image_net(rng, blocks):
  """Convolutions, pooling, residual blocks, then dense layers."""
  net = Net(rng)
  _add_image_blocks(net, 2, ('layer', *blocks))
  x = jnp.asarray(rng.normal(size=(2, 12, 12, 2)), jnp.float32)
  return _classified(net, x)


def decoder_net(rng, blocks):
  """A dense layer makes an image, with another bias at each position."""
  net, width = Net(rng), int(rng.integers(2, 6))
  w, b = net.add((4, 12, 12, width)), net.add((144 * width,))
  has_input = rng.random(width) < 0.5  # else a channel is a constant image
  net.params[w] *= jnp.asarray(has_input, jnp.float32)
  f = net.activation()

  def grow(p, z):
    units = f(z @ p[w].reshape(4, -1) + p[b])
    return units.reshape(-1, 12, 12, width)

  net.layers.append(grow)
  _add_image_blocks(net, width, ('layer', *blocks))
  return _classified(net, jnp.asarray(rng.normal(size=(2, 4)), jnp.float32))


def _add_image_blocks(net, width, blocks):
  rng = net.rng
  for block in blocks:
    size = int(rng.integers(1, 6))
    if block == 'layer':
      net.layers.append(conv(net, width, size))
      width = size
    elif block == 'residual':
      inner = [conv_same(net, width, size), conv_same(net, size, width)]
      net.layers.append(residual(chain(*inner)))
    elif block == 'concatenation':
      net.layers.append(
        concatenated(conv_same(net, width, size), lambda p, x: x)
      )
      width += size
    elif block == 'depthwise':
      net.layers.append(conv(net, width, width, groups=width))
    else:
      net.layers.append(pool(net))


def _classified(net, x):
  """The network with a head on it, and its input."""
  if net.rng.random() < 0.5:
    net.layers.append(lambda p, x: x.reshape(x.shape[0], -1))
  else:
    net.layers.append(lambda p, x: x.mean((1, 2)))
  size = jax.eval_shape(net.fn, net.params, x).shape[-1]
  net.layers.append(dense(net, size, 5))
  net.layers.append(dense(net, 5, 3, act=False))
  return net, x


def conv_same(net, width, size):
  w, b, f = net.add((3, 3, width, size)), bias(net, size), net.activation()
  return lambda p, x: f(
    b(
      p,
      lax.conv_general_dilated(
        x, p[w], (1, 1), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      ),
    )
  )  # fmt: skip


def sequence_net(rng, blocks):
  """Attention, feed-forward layers, residual or not."""
  net, width = Net(rng), 4
  net.layers.append(dense(net, 3, width, act=False))
  for block in blocks:
    if block == 'attention':
      inner = attention(net, width)
    elif block == 'norm':
      net.layers.append(layer_norm(net, width))
      continue
    else:
      inner = chain(dense(net, width, 6), dense(net, 6, width, act=False))
    net.layers.append(residual(inner) if rng.random() < 0.6 else inner)
  net.layers.append(lambda p, x: x.mean(1))
  net.layers.append(dense(net, width, 2, act=False))
  return net, jnp.asarray(rng.normal(size=(2, 5, 3)), jnp.float32)


def random_masks(rng, params, kinds=MASKS):
  """A mask of a random kind for each weight, sometimes for a scale."""

  def mask(leaf):
    if leaf.ndim < 2 and rng.random() < 0.8:
      return None
    kind = rng.choice(
      kinds, p=None if len(kinds) < 6 else [0.2] * 4 + [0.15, 0.05]
    )
    values = np.ones(leaf.shape)
    if kind in ('dense', 'sparse'):
      values = rng.random(leaf.shape) < (0.5 if kind == 'dense' else 0.1)
    elif kind == 'rows' and leaf.ndim > 1:
      values[..., rng.random(leaf.shape[-2]) < 0.5, :] = 0
    elif kind == 'columns':
      values[..., rng.random(leaf.shape[-1]) < 0.5] = 0
    elif kind == 'zeros':
      values *= 0
    return jnp.asarray(values, jnp.float32)

  return jax.tree.map(mask, params)


# How to make each kind, and of what layers.
NETS = {
  'vector': (
    vector_net,
    ['layer', 'residual', 'concatenation', 'norm'],
  ),
  'image': (
    image_net,
    ['layer', 'residual', 'concatenation', 'depthwise', 'pool'],
  ),
  'decoder': (decoder_net, ['layer', 'depthwise', 'pool']),
  'sequence': (sequence_net, ['attention', 'norm', 'layer']),
}
