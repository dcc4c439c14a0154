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
"""Residual networks for 32x32 images (He et al. 2016, arXiv 1512.03385).

Section 4.2 there: three stages of 16, 32 and 64 filters, option A shortcuts
(strided identity, zeros for new channels). ResNet-20, 32 and 56 have 269,722,
464,154 and 853,018 parameters.

ResNet-8 here is a smaller one of our own for runs on a CPU: its stem sees the
12 channels of 2x2 blocks of pixels, and its shortcuts are 1x1 convolutions
(option B). It has 78,656 weights.
"""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import join
from experiments.models import layers


class Block(NamedTuple):
  """What a residual block is made of.

  Attributes:
    features: Its output channels.
    stride: 2 where it halves the map, else 1.
    branch: The numbers of the convolutions of its branch, each of which has a
      BatchNorm of the same number.
    projection: The number of the one in its shortcut, or `None`.
  """

  features: int
  stride: int
  branch: tuple[int, int]
  projection: int | None


class ResNet(nn.Module):
  """A residual network of depth 6 n + 2.

  Attributes:
    depth: 20, 32, 44, 56, ...
    num_classes: The number of logits.
    block: Pixels of a block along an edge: the stem sees blocks as channels.
    projection: Whether shortcuts that change shape are convolutions.
    dtype: The dtype of the computation.
    closed: The residual blocks, from 0, of which the shortcut alone is there.
  """

  depth: int = 20
  num_classes: int = 10
  block: int = 1
  projection: bool = False
  dtype: jnp.dtype | None = None
  closed: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, 32, 32, channels] to logits."""
    blocks = self.blocks()
    if not set(self.closed) <= set(range(len(blocks))):
      raise ValueError(
        f'closed must hold numbers of blocks, 0 to {len(blocks) - 1}; got '
        f'{self.closed}.'
      )

    def conv_norm(x, number, features, window=3, stride=1):
      # Named here, so that a closed block leaves the other names as they are.
      x = nn.Conv(
        features,
        (window, window),
        stride,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        name=f'Conv_{number}',
      )(x)
      return layers.batch_norm(
        train=train, dtype=self.dtype, name=f'BatchNorm_{number}'
      )(x)

    x = _blocks_to_channels(images, self.block)
    x = nn.relu(conv_norm(x, 0, 16))
    for index, (features, stride, branch, projection) in enumerate(blocks):
      y = None
      if index not in self.closed:
        y = nn.relu(conv_norm(x, branch[0], features, stride=stride))
        y = conv_norm(y, branch[1], features)
        y = self.gate(index, x, y)
      if projection is not None:
        x = conv_norm(x, projection, features, window=1, stride=stride)
      elif stride > 1:
        x = _option_a(x, features, stride)
      if y is not None:
        x = join.Join(name=f'Join_{index}')(y, x)
      x = nn.relu(x)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x.mean(axis=(1, 2)))

  def blocks(self) -> list[Block]:
    """The residual blocks, from the stem on, closed ones too."""
    if self.depth % 6 != 2 or self.depth < 8:
      raise ValueError(f'depth must be 6 n + 2, such as 20; got {self.depth}.')
    blocks, number = [], 1
    for stage, features in enumerate((16, 32, 64)):
      for index in range((self.depth - 2) // 6):
        stride = 2 if stage and not index else 1
        projection = number + 2 if stride > 1 and self.projection else None
        blocks.append(Block(features, stride, (number, number + 1), projection))
        number += 2 if projection is None else 3
    return blocks

  def inner_filters(self) -> dict[str, str]:
    """Convolutions whose channels may go, and the BatchNorm behind each.

    The first of each branch: what others give is added to a shortcut.
    """
    numbers = [
      block.branch[0]
      for index, block in enumerate(self.blocks())
      if index not in self.closed
    ]
    return {f'Conv_{n}': f'BatchNorm_{n}' for n in numbers}

  def gate(self, index: int, x: jax.Array, branch: jax.Array) -> jax.Array:
    """What a block adds to its shortcut; `gated_resnet` multiplies it.

    Args:
      index: The block.
      x: Its input.
      branch: The output of its branch.

    Returns:
      An array like `branch`.
    """
    del index, x
    return branch


def _option_a(x: jax.Array, features: int, stride: int) -> jax.Array:
  missing = features - x.shape[-1]
  return jnp.pad(
    x[:, ::stride, ::stride],
    ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)),
  )


def _blocks_to_channels(images: jax.Array, size: int) -> jax.Array:
  """[n, h, w, c] to [n, h / size, w / size, size * size * c]."""
  n, h, w, c = images.shape
  if h % size or w % size:
    raise ValueError(
      f'The height and width of images must be divisible by {size}; got '
      f'{images.shape}.'
    )
  if size == 1:
    return images
  x = images.reshape(n, h // size, size, w // size, size, c)
  return x.swapaxes(2, 3).reshape(n, h // size, w // size, size * size * c)
