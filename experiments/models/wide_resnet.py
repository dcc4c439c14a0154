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
"""Wide residual networks for 32x32 images (arXiv 1605.07146).

Pre-activation blocks (BatchNorm, ReLU, convolution), 1x1 convolutions as
shortcuts where the shape changes, no dropout. WideResNet-22-2, on which sparse
training is often compared, has 1,079,642 parameters.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import join
from experiments.models import layers


class WideResNet(nn.Module):
  """A wide residual network of depth 6 n + 4.

  Attributes:
    depth: 16, 22, 28, ...
    width: The factor of the 16, 32 and 64 filters.
    num_classes: The number of logits.
    dtype: The dtype of the computation.
  """

  depth: int = 22
  width: int = 2
  num_classes: int = 10
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, 32, 32, channels] to logits."""
    if self.depth % 6 != 4:
      raise ValueError(f'depth must be 6 n + 4, such as 22; got {self.depth}.')
    conv = functools.partial(
      nn.Conv,
      use_bias=False,
      kernel_init=nn.initializers.he_normal(),
      dtype=self.dtype,
    )
    norm = functools.partial(layers.batch_norm, train=train, dtype=self.dtype)
    x = conv(16, (3, 3))(images)
    for stage, features in enumerate((16, 32, 64)):
      features *= self.width
      for block in range((self.depth - 4) // 6):
        stride = 2 if stage and not block else 1
        y = nn.relu(norm()(x))
        if not block:  # the shortcut branches off behind the activation
          x = conv(features, (1, 1), stride)(y)
        y = conv(features, (3, 3), stride)(y)
        y = conv(features, (3, 3))(nn.relu(norm()(y)))
        x = join.Join()(y, x)
    x = nn.relu(norm()(x)).mean(axis=(1, 2))
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)
