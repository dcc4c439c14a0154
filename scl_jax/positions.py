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
"""Where the entries of an array are, counted row by row, and a hash of it."""

import jax
import jax.numpy as jnp


def positions(
  shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.int32
) -> jax.Array:
  """The position of each entry in row-major order.

  From one iota for each axis: to reshape a single one would gather what is
  sharded.

  Args:
    shape: The array's shape.
    dtype: An integer dtype; positions that it does not hold wrap around.

  Returns:
    An array of that shape.

  Example:
    >>> positions((2, 3))
    Array([[0, 1, 2],
           [3, 4, 5]], dtype=int32)
  """
  position = jnp.zeros(shape, dtype)
  for axis, size in enumerate(shape):
    position = position * size + jax.lax.broadcasted_iota(dtype, shape, axis)
  return position


def scrambled(
  shape: tuple[int, ...],
  start: jax.typing.ArrayLike = 0,
  shift: jax.typing.ArrayLike = 0,
) -> jax.Array:
  """A number for each entry that looks random: a hash of its position.

  Wellons's lowbias32, with one more number added half way. It maps uint32 to
  themselves one to one, so that the numbers of an array are distinct.

  Args:
    shape: The array's shape.
    start: Added to the positions, uint32.
    shift: The number added half way, uint32.

  Returns:
    An array of uint32 of that shape.
  """
  place = positions(shape, jnp.uint32) + jnp.asarray(start, jnp.uint32)
  place = (place ^ (place >> 16)) * jnp.uint32(0x7FEB352D)
  place += jnp.asarray(shift, jnp.uint32)
  place = (place ^ (place >> 15)) * jnp.uint32(0x846CA68B)
  return place ^ (place >> 16)
