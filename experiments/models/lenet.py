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
"""The two LeNets on which pruning methods are compared.

With 28x28x1 images and 10 classes they hold 266,200 and 430,500 weights
(266,610 and 431,080 parameters with biases).
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from experiments.models import layers

_HE = nn.initializers.he_normal()


class LeNet300(nn.Module):
  """LeNet-300-100: a perceptron with two hidden layers.

  Attributes:
    num_classes: The number of logits.
    dtype: The dtype of the computation.
  """

  num_classes: int = 10
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, height, width, channels] to logits."""
    del train  # it is the same
    x = images.reshape(images.shape[0], -1)
    for features in (300, 100):
      x = nn.relu(nn.Dense(features, kernel_init=_HE, dtype=self.dtype)(x))
    return nn.Dense(self.num_classes, kernel_init=_HE, dtype=self.dtype)(x)


class LeNet5(nn.Module):
  """LeNet-5 as in Caffe: 20-50-500-10, with a ReLU after each convolution.

  Attributes:
    num_classes: The number of logits.
    dtype: The dtype of the computation.
  """

  num_classes: int = 10
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps images [batch, height, width, channels] to logits.

    Args:
      images: Height and width are 16 or more and multiples of 4, so that both
        poolings come out even.
      train: Changes nothing.

    Returns:
      [batch, num_classes].

    Raises:
      ValueError: If the images have another size.
    """
    del train  # it is the same
    if any(size < 16 or size % 4 for size in images.shape[1:3]):
      raise ValueError(
        'LeNet-5 needs images whose height and width are multiples of 4 and at '
        f'least 16; got {images.shape}. config.image_size enlarges them.'
      )
    x = images
    for features in (20, 50):
      x = nn.Conv(
        features, (5, 5), padding='VALID', kernel_init=_HE, dtype=self.dtype
      )(x)
      x = nn.relu(layers.max_pool_2x2(x))
    x = x.reshape(x.shape[0], -1)
    x = nn.relu(nn.Dense(500, kernel_init=_HE, dtype=self.dtype)(x))
    return nn.Dense(self.num_classes, kernel_init=_HE, dtype=self.dtype)(x)
