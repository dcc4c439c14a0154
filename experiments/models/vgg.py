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
"""VGG with BatchNorm for 32x32 images (arXiv 1409.1556, tables 1 D and E).

"VGG-16" on CIFAR-10 means several networks. These have no biases in their
convolutions and one linear layer of 512 features behind them, no hidden
classifier: 14,724,042 and 20,035,018 parameters, of which 14,715,584 and
20,024,000 are weights. The narrow one, with an eighth of the channels, is our
own for runs on a CPU.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import layers

# Convolutions of each stage; after each stage the map is halved.
_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

NARROW = (8, 16, 32, 64, 64)  # output channels of each stage


class VGG(nn.Module):
  """VGG-16 or VGG-19 with BatchNorm and one linear layer.

  Attributes:
    depth: 16 or 19; the paper's, two of whose linear layers are not here.
    num_classes: The number of logits.
    features: Output channels of the convolutions of each stage.
    dtype: The dtype of the computation.
  """

  depth: int = 16
  num_classes: int = 10
  features: tuple[int, ...] = (64, 128, 256, 512, 512)
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, 32, 32, channels] to logits."""
    stages = self.stages()
    multiple = 2 ** len(stages)
    if images.shape[1] % multiple or images.shape[2] % multiple:
      raise ValueError(
        f'VGG halves its maps {len(stages)} times, so images must have a '
        f'height and a width divisible by {multiple}; got {images.shape}.'
      )
    x = images
    layer = 0
    for stage in stages:
      for features in stage:
        y = layers.Conv3x3(features, dtype=self.dtype)(x)
        y = nn.relu(layers.batch_norm(train=train, dtype=self.dtype)(y))
        x = self.gate(layer, x, y)
        layer += 1
      x = layers.max_pool_2x2(x)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x.mean(axis=(1, 2)))

  def stages(self) -> list[list[int]]:
    """The output channels of each convolution, by stage."""
    if self.depth not in _CONVOLUTIONS:
      raise ValueError(f'depth must be 16 or 19; got {self.depth}.')
    counts = _CONVOLUTIONS[self.depth]
    return [
      [features] * count
      for count, features in zip(counts, self.features, strict=True)
    ]

  def inner_filters(self) -> dict[str, str]:
    """Convolutions whose channels may go, and the BatchNorm behind each."""
    count = sum(len(stage) for stage in self.stages())
    return {f'Conv3x3_{i}': f'BatchNorm_{i}' for i in range(count)}

  def gate(self, layer: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """What a layer gives; `gated_vgg` multiplies it.

    Args:
      layer: The convolution, from 0.
      x: Its input.
      y: What it gives, behind BatchNorm and ReLU.

    Returns:
      An array like `y`.
    """
    del layer, x
    return y
