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
"""Whole numbers below 2^64, as pairs of uint32.

Sums of MACs pass 2^31, and JAX has no 64-bit integers unless they are turned on
for everything.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_BASE = 1 << 32
_HALF = 16
_HALF_MASK = (1 << _HALF) - 1


class Wide(NamedTuple):
  """The number 2^32 high + low.

  Attributes:
    high: uint32.
    low: uint32.
  """

  high: jax.Array
  low: jax.Array


def from_int(value: int) -> Wide:
  """A number of Python.

  Args:
    value: In [0, 2^64).

  Returns:
    A `Wide`.

  Raises:
    OverflowError: If it is not in the range.

  Example:
    >>> to_int(from_int(2**40 + 1)) == 2**40 + 1
    True
  """
  if not 0 <= value < _BASE**2:
    raise OverflowError(f'{value} is not in [0, 2^64).')
  high, low = divmod(value, _BASE)
  return Wide(jnp.uint32(high), jnp.uint32(low))


def from_array(value: Any) -> Wide:
  """A whole number that fits int32, 0 where it is negative, or a `Wide`."""
  if isinstance(value, Wide):
    return value
  whole = jnp.maximum(jnp.asarray(value, jnp.int32), 0)
  return Wide(jnp.zeros_like(whole, jnp.uint32), whole.astype(jnp.uint32))


def from_float(value: jax.Array) -> Wide:
  """A float32 scalar >= 0, rounded down."""
  value = jnp.floor(value)
  high = jnp.floor(value / float(_BASE))
  low = value - high * float(_BASE)
  return Wide(high.astype(jnp.uint32), low.astype(jnp.uint32))


def to_float(value: Wide) -> jax.Array:
  """The nearest float32, or next to it."""
  high, low = (part.astype(jnp.float32) for part in value)
  return high * float(_BASE) + low


def to_int(value: Wide) -> int:
  """The number as one of Python; not under `jax.jit`."""
  return int(value.high) * _BASE + int(value.low)


def times(a: Any, b: Any) -> Wide:
  """The product of two whole numbers in [0, 2^32)."""
  a, b = jnp.asarray(a, jnp.uint32), jnp.asarray(b, jnp.uint32)
  a1, a0, b1, b0 = a >> _HALF, a & _HALF_MASK, b >> _HALF, b & _HALF_MASK
  # By hand, in digits of 16 bits; no sum here passes 2^32 - 1.
  low = a0 * b0
  middle = a1 * b0 + (low >> _HALF)
  other = a0 * b1 + (middle & _HALF_MASK)
  high = a1 * b1 + (middle >> _HALF) + (other >> _HALF)
  return Wide(high, (other << _HALF) | (low & _HALF_MASK))


def plus(a: Wide, b: Wide) -> Wide:
  """The sum, which must be below 2^64."""
  low = a.low + b.low
  return Wide(a.high + b.high + (low < a.low).astype(jnp.uint32), low)


def minus(a: Wide, b: Wide) -> Wide:
  """The difference, but at least 0."""
  borrow = (a.low < b.low).astype(jnp.uint32)
  good = at_most(b, a)
  zero = jnp.uint32(0)
  return Wide(
    jnp.where(good, a.high - b.high - borrow, zero),
    jnp.where(good, a.low - b.low, zero),
  )


def at_most(a: Wide, b: Wide) -> jax.Array:
  """Whether a <= b."""
  return (a.high < b.high) | ((a.high == b.high) & (a.low <= b.low))


def total(values: Wide) -> Wide:
  """The sum of a vector of up to 2^16 numbers, which must be below 2^64."""
  return _from_digits(*(jnp.sum(d, dtype=jnp.uint32) for d in _digits(values)))


def running_totals(values: Wide) -> Wide:
  """The sums of a vector's entries up to each; see `total`."""
  return _from_digits(
    *(jnp.cumsum(d, dtype=jnp.uint32) for d in _digits(values))
  )


def _digits(value: Wide) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The upper half, and the digits of 16 bits of the lower."""
  return value.high, value.low >> _HALF, value.low & _HALF_MASK


def _from_digits(high: jax.Array, middle: jax.Array, low: jax.Array) -> Wide:
  """From sums of digits."""
  middle = middle + (low >> _HALF)
  return Wide(high + (middle >> _HALF), (middle << _HALF) | (low & _HALF_MASK))
