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
(strided identity, zeros for new channels). ResNet-20 has 269,722 parameters.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import join


class ResNet(nn.Module):
  """A residual network of depth 6 n + 2.

  Attributes:
    depth: 20, 32, 44, 56, ...
    num_classes: The number of logits.
  """

  depth: int = 20
  num_classes: int = 10

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, 32, 32, channels] to logits."""
    if self.depth % 6 != 2:
      raise ValueError(f'depth must be 6 n + 2, such as 20; got {self.depth}.')
    conv = functools.partial(
      nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal()
    )
    norm = functools.partial(nn.BatchNorm, use_running_average=not train)
    x = nn.relu(norm()(conv(16, (3, 3))(images)))
    for stage, features in enumerate((16, 32, 64)):
      for block in range((self.depth - 2) // 6):
        stride = 2 if stage and not block else 1
        y = nn.relu(norm()(conv(features, (3, 3), stride)(x)))
        y = norm()(conv(features, (3, 3))(y))
        if stride > 1:
          missing = features - x.shape[-1]
          x = jnp.pad(
            x[:, ::stride, ::stride],
            ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)),
          )
        x = nn.relu(join.Join()(y, x))
    return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))
