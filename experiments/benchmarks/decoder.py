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
"""A decoder-only transformer, cut along the axes of `experiments.sharding`.

Pre-norm with RMSNorm, rotary positions, grouped queries and SwiGLU, as in
Llama 2 (arXiv 2307.09288). The layers are stacked, and one scan goes through
them, so that a program does not grow with their number. Weights are float32 and
the computation bfloat16.

Along `data` and `fsdp` each device sees its own sequences; a layer gathers its
weights along `fsdp` when it comes to it. Along `tensor` heads and hidden units
are divided.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scl_jax import tree as tree_lib

PyTree = Any
P = jax.sharding.PartitionSpec

PARAM_AXES = (
  (r'layers/(query|key|value|gate|up)/kernel|head/kernel', ('fsdp', 'tensor')),
  (r'layers/(out|down)/kernel|embedding/kernel', ('tensor', 'fsdp')),
  ('.*', ()),
)
PRUNABLE = 'layers/.*/kernel'
FEATURE_AXES = (0, -1)  # an output of one of the layers

_EXAMPLES = ('data', 'fsdp')
_DTYPE = jnp.bfloat16


class Decoder(NamedTuple):
  """The sizes of a transformer.

  Attributes:
    width: The length of a token.
    layers: The number of layers.
    heads: Heads of queries.
    groups: Heads of keys and values.
    hidden: Units within a layer.
    vocabulary: The number of tokens there are.
  """

  width: int
  layers: int
  heads: int
  groups: int
  hidden: int
  vocabulary: int

  def shapes(self) -> PyTree:
    """The shapes of params, `jax.ShapeDtypeStruct`."""
    width, depth = self.width, self.width // self.heads
    array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    stack = lambda *shape: array(self.layers, *shape)
    return {
      'embedding': {'kernel': array(self.vocabulary, width)},
      'head': {'kernel': array(width, self.vocabulary)},
      'norm': {'scale': array(width)},
      'layers': {
        'attention_norm': {'scale': stack(width)},
        'query': {'kernel': stack(width, self.heads * depth)},
        'key': {'kernel': stack(width, self.groups * depth)},
        'value': {'kernel': stack(width, self.groups * depth)},
        'out': {'kernel': stack(self.heads * depth, width)},
        'hidden_norm': {'scale': stack(width)},
        'gate': {'kernel': stack(width, self.hidden)},
        'up': {'kernel': stack(width, self.hidden)},
        'down': {'kernel': stack(self.hidden, width)},
      },
    }

  def init(self, key: jax.Array) -> PyTree:
    """Random params."""
    shapes, treedef = jax.tree.flatten(self.shapes())
    leaves = [
      0.02 * jax.random.normal(jax.random.fold_in(key, index), leaf.shape)
      for index, leaf in enumerate(shapes)
    ]
    params = jax.tree.unflatten(treedef, leaves)
    return tree_lib.map_with_path(
      lambda path, x: jnp.ones_like(x) if path.endswith('scale') else x, params
    )

  def loss(self, params: PyTree, tokens: jax.Array) -> jax.Array:
    """The mean cross-entropy of the next token; on a mesh.

    Args:
      params: As `init` makes them.
      tokens: int32 [sequences, length + 1].

    Returns:
      A float32 scalar.
    """
    x = _used(params['embedding'], 'tensor', None)[tokens[:, :-1]]
    x, _ = jax.lax.scan(
      jax.checkpoint(self._layer), _cut(x, _EXAMPLES), params['layers']
    )
    logits = _norm(x, params['norm']) @ _used(params['head'], None, 'tensor')
    return optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), tokens[:, 1:]
    ).mean()

  def _layer(self, x, layer):
    count, length, _ = x.shape
    y = _norm(x, layer['attention_norm'])
    query, key, value = (
      (y @ _used(layer[name], None, 'tensor')).reshape(
        count, length, heads, self.width // self.heads
      )
      for name, heads in (
        ('query', self.heads),
        ('key', self.groups),
        ('value', self.groups),
      )
    )
    y = jax.nn.dot_product_attention(
      _rotate(query), _rotate(key), value, is_causal=True
    )
    y = y.reshape(count, length, -1) @ _used(layer['out'], 'tensor', None)
    x = _cut(x + y, _EXAMPLES)
    y = _norm(x, layer['hidden_norm'])
    gate, up = (
      y @ _used(layer[name], None, 'tensor') for name in ('gate', 'up')
    )
    y = (jax.nn.silu(gate) * up) @ _used(layer['down'], 'tensor', None)
    return _cut(x + y, _EXAMPLES), None


def _cut(x: jax.Array, *spec: Any) -> jax.Array:
  return jax.lax.with_sharding_constraint(x, P(*spec))


def _used(leaf: Any, *spec: str | None) -> jax.Array:
  """A kernel as a product takes it: whole along `fsdp`."""
  return _cut(leaf['kernel'].astype(_DTYPE), *spec)


def _norm(x: jax.Array, leaf: Any) -> jax.Array:
  x = x.astype(jnp.float32)
  scale = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-5)
  return (x * scale * leaf['scale']).astype(_DTYPE)


def _rotate(x: jax.Array) -> jax.Array:
  """Rotary positions, for [sequences, length, heads, depth]."""
  half = x.shape[-1] // 2
  frequencies = 1e4 ** -(jnp.arange(half) / half)
  angles = jnp.arange(x.shape[1])[:, None, None] * frequencies
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
  turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
  return turned.astype(_DTYPE)
