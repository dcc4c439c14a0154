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
"""ResNet-50 in the layout of torchvision, "v1.5" (arXiv 1512.03385, table 1).

The stride of a bottleneck is at its 3x3 convolution, not at its first 1x1. With
1,000 classes it has 25,557,032 parameters, 25,502,912 of them weights.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import layers


class ResNet50(nn.Module):
  """ResNet-50 for images of about 224x224.

  Attributes:
    num_classes: The number of logits.
    dtype: The dtype of the computation.
  """

  num_classes: int = 1000
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, height, width, channels] to logits."""
    conv = functools.partial(
      nn.Conv,
      use_bias=False,
      kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
      dtype=self.dtype,
    )
    norm = functools.partial(layers.batch_norm, train=train, dtype=self.dtype)
    # Padding as in torch, which differs from 'SAME' where the stride is 2.
    x = nn.relu(norm()(conv(64, (7, 7), 2, padding=3)(images)))
    # After a ReLU, padding by zeros is padding by -inf.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nn.max_pool(x, (3, 3), (2, 2))
    for stage, count in enumerate((3, 4, 6, 3)):
      features = 64 * 2**stage
      for block in range(count):
        stride = 2 if stage and not block else 1
        y = nn.relu(norm()(conv(features, (1, 1))(x)))
        y = nn.relu(norm()(conv(features, (3, 3), stride, padding=1)(y)))
        y = norm()(conv(4 * features, (1, 1))(y))
        if not block:
          x = norm()(conv(4 * features, (1, 1), stride)(x))
        x = nn.relu(x + y)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x.mean(axis=(1, 2)))
