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
"""What happens to pixels on the device, within the compiled step."""

import jax
import jax.numpy as jnp

# Mean and standard deviation of each channel, of pixels in [0, 1].
Scaling = tuple[tuple[float, ...], tuple[float, ...]]


def scale(images: jax.Array, scaling: Scaling | None = None) -> jax.Array:
  """uint8 pixels to [0, 1] in float32, or to mean 0 and variance 1.

  Args:
    images: uint8, [..., channels].
    scaling: Mean and standard deviation; `None` leaves [0, 1].

  Returns:
    float32, of that shape.
  """
  x = images.astype(jnp.float32) / 255
  if scaling is None:
    return x
  mean, std = (jnp.asarray(values, jnp.float32) for values in scaling)
  return (x - mean) / std


def crop_and_flip(
  key: jax.Array, images: jax.Array, *, padding: int, flip: bool
) -> jax.Array:
  """Another part of each image, mirrored or not.

  Args:
    key: A PRNG key; it decides everything.
    images: [batch, height, width, channels].
    padding: Zeros around each image, of which a part of the old size is cut.
    flip: Whether every other image, by chance, is mirrored left to right.

  Returns:
    Images of that shape and dtype.
  """
  n, h, w, c = images.shape
  row_key, column_key, flip_key = jax.random.split(key, 3)
  if padding:
    borders = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    rows = jax.random.randint(row_key, (n,), 0, 2 * padding + 1)
    columns = jax.random.randint(column_key, (n,), 0, 2 * padding + 1)
    images = jax.vmap(
      lambda x, i, j: jax.lax.dynamic_slice(x, (i, j, 0), (h, w, c))
    )(jnp.pad(images, borders), rows, columns)
  if flip:
    chosen = jax.random.bernoulli(flip_key, 0.5, (n, 1, 1, 1))
    images = jnp.where(chosen, images[:, :, ::-1], images)
  return images
