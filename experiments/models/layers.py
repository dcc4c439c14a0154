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
"""Layers that several models share, each as fast on a CPU as it can be."""

from flax import linen as nn
from flax.linen import dtypes
import jax
import jax.numpy as jnp

# torch's 0.1 is Flax's 0.9; experiments.evaluation reads it, too.
BATCH_NORM_MOMENTUM = 0.9
_BATCH_NORM_EPSILON = 1e-5


def batch_norm(
  *, train: bool, dtype: jnp.dtype | None = None, name: str | None = None
) -> nn.BatchNorm:
  """BatchNorm with the constants of the reference networks.

  Args:
    train: Whether to use the statistics of the batch, and update the running
      ones.
    dtype: The dtype of what comes out; statistics are float32 always.
    name: Of the module; `None` has Linen number it.

  Returns:
    A Linen module.
  """
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=BATCH_NORM_MOMENTUM,
    epsilon=_BATCH_NORM_EPSILON,
    dtype=dtype,
    name=name,
  )


@jax.custom_jvp
def max_pool_2x2(x: jax.Array) -> jax.Array:
  """Five times faster on a CPU than `nn.max_pool`, which is reduce_window.

  Args:
    x: [batch, height, width, channels], even height and width.

  Returns:
    [batch, height / 2, width / 2, channels].
  """
  return _windows(x).max(axis=(2, 4))


@max_pool_2x2.defjvp
def _max_pool_jvp(primals, tangents):
  """Weights that sum to 1 however XLA rounds.

  JAX's own derivative divides by the number of entries that equal the maximum.
  If XLA computes `x` anew for that comparison, once with a fused multiply-add
  and once without, none does, and the gradient is 0/0.
  """
  values, changes = _windows(primals[0]), _windows(tangents[0])
  for axis in (2, 3):
    a, b = _halves(values, axis)
    da, db = _halves(changes, axis)
    share = jnp.where(a > b, 1.0, jnp.where(a == b, 0.5, 0.0)).astype(a.dtype)
    values, changes = jnp.maximum(a, b), share * da + (1 - share) * db
  return values, changes


def _halves(x: jax.Array, axis: int) -> list[jax.Array]:
  return [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in (0, 1)]


def _windows(x: jax.Array) -> jax.Array:
  n, h, w, c = x.shape
  return x.reshape(n, h // 2, 2, w // 2, 2, c)


class Conv3x3(nn.Module):
  """A 3x3 convolution without bias that is fast on tiny maps, too.

  XLA on a CPU is about 100 times too slow for maps of 2x2 pixels, so there the
  windows are gathered and one matrix product taken. Params are those of
  `nn.Conv`.

  Attributes:
    features: Output channels.
    dtype: The dtype of the computation.
    gather: Whether to gather windows; `None` does for small maps on a CPU.
  """

  features: int
  dtype: jnp.dtype | None = None
  gather: bool | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [batch, height, width, channels] to [..., features]."""
    _, h, w, c = x.shape
    kernel = self.param(
      'kernel', nn.initializers.he_normal(), (3, 3, c, self.features)
    )
    x, kernel = dtypes.promote_dtype(x, kernel, dtype=self.dtype)
    gather = self.gather
    if gather is None:
      gather = h * w <= 4 and jax.default_backend() == 'cpu'
    if not gather:
      return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = jnp.concatenate(
      [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], -1
    )
    return windows @ kernel.reshape(9 * c, self.features)
