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
"""A small vision transformer (arXiv 2010.11929) for 32x32 images.

Patches of 4x4 pixels, 6 layers of width 192 with 3 heads, learned positions,
mean over tokens instead of a class token (arXiv 2205.01580): 2,693,194
parameters with 10 classes.
"""

from collections.abc import Mapping

from flax import linen as nn
import jax
import jax.numpy as jnp

# Attention has kernels of rank 3, whose features are pairs (head, entry) where
# they lead to heads. The table of positions has one row a token.
FEATURE_AXES: Mapping[str, tuple[int, ...]] = {
  'patches/kernel': (-1,),
  '.*/(query|key|value)/kernel': (-2, -1),
  '.*/out/kernel': (-1,),
  'positions/embedding': (-1,),
}


class ViT(nn.Module):
  """A vision transformer, pre-norm, without dropout.

  Attributes:
    num_classes: The number of logits.
    patch: Pixels of a patch along an edge.
    width: The length of a token.
    num_layers: The number of layers.
    num_heads: Heads of each attention.
    dtype: The dtype of the computation.
  """

  num_classes: int = 10
  patch: int = 4
  width: int = 192
  num_layers: int = 6
  num_heads: int = 3
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, height, width, channels] to logits."""
    del train  # there is neither BatchNorm nor dropout
    if images.shape[1] % self.patch or images.shape[2] % self.patch:
      raise ValueError(
        'images must have a height and a width divisible by the patch size, '
        f'{self.patch}; got {images.shape}.'
      )
    x = nn.Conv(
      self.width,
      (self.patch, self.patch),
      self.patch,
      padding='VALID',
      dtype=self.dtype,
      name='patches',
    )(images)
    x = x.reshape(x.shape[0], -1, self.width)
    tokens = jnp.arange(x.shape[1])
    embed = nn.Embed(
      x.shape[1],
      self.width,
      embedding_init=nn.initializers.normal(0.02),
      dtype=self.dtype,
      name='positions',
    )
    x += embed(tokens)
    for _ in range(self.num_layers):
      y = nn.LayerNorm(dtype=self.dtype)(x)
      x += nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype)(y)
      y = nn.LayerNorm(dtype=self.dtype)(x)
      y = nn.gelu(nn.Dense(4 * self.width, dtype=self.dtype)(y))
      x += nn.Dense(self.width, dtype=self.dtype)(y)
    x = nn.LayerNorm(dtype=self.dtype)(x).mean(axis=1)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)
