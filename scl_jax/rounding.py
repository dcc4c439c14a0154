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
"""Rounding at random, so that small steps are not lost in short numbers.

A step of a mask variable is smaller than the spacing of bfloat16 numbers; to
the nearest one it would be rounded away. Rounded up with the probability

    P(up) = (x - below) / (above - below)

the value is that of x in the mean, and many small steps add up.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scl_jax import tree as tree_lib
from scl_jax.positions import scrambled

PyTree = tree_lib.PyTree


def round_stochastically(tree: PyTree, key: jax.Array) -> PyTree:
  """float32 to bfloat16, to one of the two neighbours at random.

  Args:
    tree: A pytree of float32 arrays.
    key: The randomness, a typed key of `jax.random`.

  Returns:
    A tree of bfloat16 arrays. Numbers that bfloat16 has stay as they are, as
    do infinities and NaN.

  Example:
    >>> x = jnp.full(10_000, 1 + 2**-9)  # a quarter of the spacing above 1
    >>> rounded = round_stochastically(x, jax.random.key(0))
    >>> bool(jnp.all((rounded == 1) | (rounded == 1 + 2**-7)))
    True
    >>> print(f'{jnp.mean(rounded > 1):.2f}')
    0.25
  """
  leaves, treedef = jax.tree.flatten(tree)
  keys = (jax.random.fold_in(key, i) for i in range(len(leaves)))
  return treedef.unflatten(map(_round, leaves, keys))


def to_storage(
  mask_dtype: jax.typing.DTypeLike,
) -> Callable[[PyTree, jax.Array], PyTree]:
  """How mask variables are stored.

  Args:
    mask_dtype: float32, or bfloat16, to which they are rounded at random.

  Returns:
    A function from mask variables in float32 and the step to what is kept of
    them.

  Raises:
    ValueError: If it is another dtype.
  """
  try:
    dtype = jnp.dtype(mask_dtype)
  except TypeError:
    raise ValueError(
      f'mask_dtype must be float32 or bfloat16, got {mask_dtype!r}.'
    ) from None
  if dtype == jnp.float32:
    return lambda mask_params, _: mask_params
  if dtype == jnp.bfloat16:
    return lambda mask_params, count: round_stochastically(
      mask_params, jax.random.fold_in(jax.random.key(0), count)
    )
  raise ValueError(f'mask_dtype must be float32 or bfloat16, got {dtype}.')


def _round(x: jax.Array, key: jax.Array) -> jax.Array:
  # A bfloat16 is the upper half of a float32: what is added to the lower half
  # carries into the upper one with just the probability above.
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  bits += _hash(x, key) >> 16
  upper = jax.lax.bitcast_convert_type(
    (bits >> 16).astype(jnp.uint16), jnp.bfloat16
  )
  return jnp.where(jnp.isfinite(x), upper, x.astype(jnp.bfloat16))


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
  """Random bits for each entry, from its place and two random numbers.

  With far fewer operations than `jax.random.bits`.
  """
  start, shift = jax.random.bits(key, (2,), jnp.uint32)
  return scrambled(x.shape, start, shift)
