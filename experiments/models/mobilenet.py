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
"""MobileNetV1 (arXiv 1704.04861, table 1), width 1.

With 1,000 classes it has 4,231,976 parameters. For 32x32 images give
`stem_stride=1`.
"""

from collections.abc import Mapping

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import layers

# (output channels, stride) of each pair of convolutions.
_BLOCKS = (
  (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
  *5 * [(512, 1)], (1024, 2), (1024, 1),
)  # fmt: skip

# A depthwise kernel is (3, 3, 1, channels): each channel is a filter of nine
# connections. Both kinds have their features on the last axis.
FEATURE_AXES: Mapping[str, tuple[int, ...]] = {
  'depthwise_.*/kernel': (-1,),
  'pointwise_.*/kernel': (-1,),
}


class MobileNet(nn.Module):
  """MobileNetV1.

  Attributes:
    num_classes: The number of logits.
    stem_stride: 2 for images of about 224x224, 1 for small ones.
    dtype: The dtype of the computation.
  """

  num_classes: int = 1000
  stem_stride: int = 2
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, height, width, channels] to logits."""

    def conv(x, features, kernel_size, stride, name, groups=1):
      x = nn.Conv(
        features,
        kernel_size,
        stride,
        use_bias=False,
        feature_group_count=groups,
        kernel_init=nn.initializers.he_normal(),
        dtype=self.dtype,
        name=name,
      )(x)
      return nn.relu(layers.batch_norm(train=train, dtype=self.dtype)(x))

    x = conv(images, 32, (3, 3), self.stem_stride, 'stem')
    for index, (features, stride) in enumerate(_BLOCKS):
      channels = x.shape[-1]
      x = conv(x, channels, (3, 3), stride, f'depthwise_{index}', channels)
      x = conv(x, features, (1, 1), 1, f'pointwise_{index}')
    return nn.Dense(self.num_classes, dtype=self.dtype)(x.mean(axis=(1, 2)))
