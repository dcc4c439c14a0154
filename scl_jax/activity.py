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
"""Importance of connections by the activity that passes through them.

The scores of NNrelief (arXiv 2109.10795): a connection matters to a unit by its
share of what comes into that unit on a batch. `scl_jax.nnrelief` cuts by them.
"""

from collections.abc import Sequence
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

Norm = Literal['mean_of_norms', 'norm_of_mean', 'sum_of_mean']
Padding = str | Sequence[tuple[int, int]]


class Incoming(NamedTuple):
  """One value for all that comes into the units of a layer.

  Scores or masks; of a convolution an entry stands for one kernel, that is for
  the window of one input channel and one filter.

  Attributes:
    kernel: [inputs, units].
    bias: [units]; `None` for a layer without.
  """

  kernel: jax.Array
  bias: jax.Array | None


def dense_scores(
  kernel: ArrayLike, bias: ArrayLike | None, inputs: ArrayLike
) -> Incoming:
  r"""Importance of the connections of a dense layer.

  .. math::
    u_{ij} = \frac1N \sum_n |w_{ij} x_{ni}|, \quad u_{bj} = |b_j|, \quad
    s_{ij} = \frac{u_{ij}}{\sum_i u_{ij} + u_{bj}}

  Args:
    kernel: Weights, [inputs, units].
    bias: [units]; `None` for a layer without.
    inputs: What the layer was applied to, [examples, inputs].

  Returns:
    The scores, float32; those of a unit sum to 1, or are all 0.

  Raises:
    ValueError: If the shapes do not fit, or there is no example.

  Example:
    >>> x = jnp.array([[1.0, -2.0], [3.0, 0.0]])
    >>> dense_scores(jnp.array([[1.0], [-1.0]]), jnp.array([2.0]), x)
    Incoming(kernel=Array([[0.4],
           [0.2]], dtype=float32), bias=Array([0.4], dtype=float32))
  """
  kernel, inputs = _float32(kernel), _float32(inputs)
  if kernel.ndim != 2 or inputs.ndim != 2:
    raise ValueError(
      'A dense layer has a kernel [inputs, units] and is applied to '
      f'[examples, inputs]; got kernel {kernel.shape} and inputs '
      f'{inputs.shape}.'
    )
  _check_shapes(kernel, bias, inputs)
  strength = jnp.abs(kernel) * jnp.mean(jnp.abs(inputs), axis=0)[:, None]
  return _shares(strength, None if bias is None else jnp.abs(_float32(bias)))


def conv_scores(
  kernel: ArrayLike,
  bias: ArrayLike | None,
  inputs: ArrayLike,
  *,
  strides: int | Sequence[int] = 1,
  padding: Padding = 'SAME',
  kernel_dilation: int | Sequence[int] = 1,
  norm: Norm = 'mean_of_norms',
) -> Incoming:
  r"""Importance of the kernels of a convolution.

  .. math::
    u_{ij} = \frac1N \sum_n \bigl\| |K_{ij}| * |x_{ni}| \bigr\|_F, \quad
    u_{bj} = |b_j| \sqrt{\text{positions}}

  and shares as in `dense_scores`. No map is formed for each kernel: with
  :math:`P_i` the patches of :math:`|x_i|` the squared norm is
  :math:`\mathrm{vec}|K_{ij}|^\top P_i^\top P_i \mathrm{vec}|K_{ij}|` (our
  derivation), so one Gram matrix serves all filters.

  Args:
    kernel: Weights, [*window, inputs, units].
    bias: [units]; `None` for a layer without.
    inputs: What the layer was applied to, [examples, *spatial, inputs].
    strides: One for all spatial axes, or one each.
    padding: `'SAME'`, `'VALID'` or (before, after) for each spatial axis.
    kernel_dilation: One for all spatial axes, or one each.
    norm: `'mean_of_norms'` is the paper's, above. The authors' code takes
      `'norm_of_mean'` for VGG and ResNet, the norm of the map's mean over the
      examples, and `'sum_of_mean'` for LeNet-5, the sum of that mean's entries
      (for the bias, |b_j| times positions).

  Returns:
    The scores, float32; those of a filter sum to 1, or are all 0.

  Raises:
    ValueError: If the shapes do not fit, also those of a grouped convolution,
      there is no example, or an argument is unknown.
  """
  kernel, inputs = _float32(kernel), _float32(inputs)
  spatial = kernel.ndim - 2
  if spatial < 1 or inputs.ndim != kernel.ndim:
    raise ValueError(
      'A convolution has a kernel [*window, inputs, units] and is applied to '
      f'[examples, *spatial, inputs]; got kernel {kernel.shape} and inputs '
      f'{inputs.shape}.'
    )
  _check_shapes(kernel, bias, inputs)
  window, (num_inputs, units) = kernel.shape[:-2], kernel.shape[-2:]
  strides = _for_each_axis('strides', strides, spatial)
  dilation = _for_each_axis('kernel_dilation', kernel_dilation, spatial)
  reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
  pads = _pads(padding, inputs.shape[1:-1], reach, strides)
  images = jnp.pad(jnp.abs(inputs), [(0, 0), *pads, (0, 0)])
  positions = [
    (size - length) // stride + 1
    for size, length, stride in zip(
      images.shape[1:-1], reach, strides, strict=True
    )
  ]
  if min(positions) < 1:
    raise ValueError(
      f'The window {window} does not fit into inputs {inputs.shape}.'
    )
  taps = jnp.abs(kernel).reshape(-1, num_inputs, units)

  def patches(image):  # [*padded, inputs] -> [positions, inputs, taps]
    slices = []
    for index in np.ndindex(*window):
      starts = [i * d for i, d in zip(index, dilation, strict=True)]
      limits = [
        start + (count - 1) * stride + 1
        for start, count, stride in zip(starts, positions, strides, strict=True)
      ]
      slices.append(
        jax.lax.slice(
          image, (*starts, 0), (*limits, num_inputs), (*strides, 1)
        ).reshape(-1, num_inputs)
      )
    return jnp.stack(slices, axis=-1)

  def norms(image):
    rows = patches(image)
    gram = jnp.einsum('pia,pib->iab', rows, rows)
    return jnp.sqrt(
      jnp.einsum('aio,iao->io', taps, jnp.einsum('iab,bio->iao', gram, taps))
    )

  size = math.prod(positions)
  if norm == 'mean_of_norms':
    # A scan, so that the patches of one example are in memory at a time.
    total, _ = jax.lax.scan(
      lambda total, image: (total + norms(image), None),
      jnp.zeros((num_inputs, units), jnp.float32),
      images,
    )
    strength, bias_weight = total / len(images), math.sqrt(size)
  elif norm == 'norm_of_mean':
    strength, bias_weight = norms(images.mean(axis=0)), math.sqrt(size)
  elif norm == 'sum_of_mean':
    sums = patches(images.mean(axis=0)).sum(axis=0)
    strength, bias_weight = jnp.einsum('aio,ia->io', taps, sums), float(size)
  else:
    raise ValueError(
      "norm must be 'mean_of_norms', 'norm_of_mean' or 'sum_of_mean', got "
      f'{norm!r}.'
    )
  return _shares(
    strength, None if bias is None else bias_weight * jnp.abs(_float32(bias))
  )


def _shares(strength: jax.Array, bias: jax.Array | None) -> Incoming:
  total = strength.sum(axis=0)
  if bias is not None:
    total = total + bias
  total = jnp.where(total > 0, total, 1.0)
  return Incoming(
    strength / total[None], None if bias is None else bias / total
  )


def _float32(array: ArrayLike) -> jax.Array:
  return jnp.asarray(array).astype(jnp.float32)


def _check_shapes(
  kernel: jax.Array, bias: ArrayLike | None, inputs: jax.Array
) -> None:
  if kernel.shape[-2] != inputs.shape[-1]:
    raise ValueError(
      f'kernel {kernel.shape} has {kernel.shape[-2]} inputs, but inputs '
      f'{inputs.shape} have {inputs.shape[-1]}. (Convolutions in groups are '
      'not supported.)'
    )
  if bias is not None and jnp.shape(bias) != kernel.shape[-1:]:
    raise ValueError(
      f'bias must be {kernel.shape[-1:]} for kernel {kernel.shape}, got '
      f'{jnp.shape(bias)}.'
    )
  if not len(inputs):
    raise ValueError('inputs holds no example.')


def _for_each_axis(name: str, value: Any, count: int) -> tuple[int, ...]:
  values = (value,) * count if isinstance(value, int) else tuple(value)
  if len(values) != count or any(v < 1 for v in values):
    raise ValueError(
      f'{name} must be one whole number >= 1, or {count} of them, got {value}.'
    )
  return values


def _pads(
  padding: Padding,
  spatial: Sequence[int],
  reach: Sequence[int],
  strides: Sequence[int],
) -> list[tuple[int, int]]:
  if isinstance(padding, str):
    if padding not in ('SAME', 'VALID'):
      raise ValueError(
        "padding must be 'SAME', 'VALID' or (before, after) for each spatial "
        f'axis, got {padding!r}.'
      )
    return list(jax.lax.padtype_to_pads(spatial, reach, strides, padding))
  pads = [(int(before), int(after)) for before, after in padding]
  if len(pads) != len(spatial) or any(min(pair) < 0 for pair in pads):
    raise ValueError(
      f'padding must hold (before, after), >= 0, for {len(spatial)} spatial '
      f'axes, got {padding}.'
    )
  return pads
