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

from collections.abc import Iterable, Sequence
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

Norm = Literal['mean_of_norms', 'norm_of_mean', 'sum_of_mean']
Padding = str | int | Sequence[int | tuple[int, int]]

_PADDINGS = ('SAME', 'SAME_LOWER', 'VALID')


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
    >>> x = jnp.array([[2.0, -2.0], [2.0, 0.0]])
    >>> dense_scores(jnp.array([[1.0], [-1.0]]), jnp.array([1.0]), x)
    Incoming(kernel=Array([[0.5 ],
           [0.25]], dtype=float32), bias=Array([0.25], dtype=float32))
  """
  kernel = _float32('kernel', kernel)
  inputs = _float32('inputs', inputs)
  if kernel.ndim != 2 or inputs.ndim != 2:
    raise ValueError(
      'A dense layer has a kernel [inputs, units] and is applied to '
      f'[examples, inputs]; got kernel {kernel.shape} and inputs '
      f'{inputs.shape}.'
    )
  _check_shapes(kernel, bias, inputs)
  kernel, bias = _relative(kernel, bias)
  images, reach = _split_scale(jnp.abs(inputs), (0,))
  return _shares(kernel * jnp.mean(images, axis=0)[:, None], reach, bias)


def conv_scores(
  kernel: ArrayLike,
  bias: ArrayLike | None,
  inputs: ArrayLike,
  *,
  strides: int | Sequence[int] | None = 1,
  padding: Padding = 'SAME',
  kernel_dilation: int | Sequence[int] | None = 1,
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
    strides: One for all spatial axes, or one each; `None` for 1.
    padding: `'SAME'`, `'VALID'` or another by which `flax.linen.Conv` pads with
      zeros: one number, or for each spatial axis a number or (before, after).
      Not `'CIRCULAR'` and `'REFLECT'`.
    kernel_dilation: One for all spatial axes, or one each; `None` for 1.
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
  kernel = _float32('kernel', kernel)
  inputs = _float32('inputs', inputs)
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
  spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
  pads = _pads(padding, inputs.shape[1:-1], spans, strides)
  kernel, bias = _relative(kernel, bias)
  images, reach = _split_scale(jnp.abs(inputs), range(inputs.ndim - 1))
  images = jnp.pad(images, [(0, 0), *pads, (0, 0)])
  positions = [
    (size - length) // stride + 1
    for size, length, stride in zip(
      images.shape[1:-1], spans, strides, strict=True
    )
  ]
  if min(positions) < 1:
    raise ValueError(
      f'The window {window} does not fit into inputs {inputs.shape}.'
    )
  # Of each kernel and each channel the largest entry is 1 before it is squared.
  taps, sizes = _split_scale(kernel.reshape(-1, num_inputs, units), (0,))

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
    strength * sizes, reach, None if bias is None else bias_weight * bias
  )


def _relative(
  kernel: jax.Array, bias: ArrayLike | None
) -> tuple[jax.Array, jax.Array | None]:
  """Absolute values of what a unit has, divided by the largest of them."""
  kernel = jnp.abs(kernel)
  largest = kernel.max(axis=tuple(range(kernel.ndim - 1)), initial=0)
  if bias is None:
    return _divide(kernel, largest), None
  bias = jnp.abs(_float32('bias', bias))
  largest = jnp.maximum(largest, bias)
  return _divide(kernel, largest), _divide(bias, largest)


def _split_scale(
  array: jax.Array, axes: Iterable[int]
) -> tuple[jax.Array, jax.Array]:
  """Values >= 0 as values in [0, 1] and what they are to be multiplied by."""
  largest = array.max(axis=tuple(axes))
  return _divide(array, largest), largest


def _divide(array: jax.Array, scale: jax.Array) -> jax.Array:
  return array / jnp.broadcast_to(jnp.where(scale == 0, 1, scale), array.shape)


def _shares(
  strength: jax.Array, reach: jax.Array, bias: jax.Array | None
) -> Incoming:
  """Shares of `strength * reach`, of which neither the largest need be 1.

  Args:
    strength: [inputs, units], at most about 1.
    reach: How large each input gets, [inputs].
    bias: Its strength, [units].

  Returns:
    The scores.
  """
  largest = reach.max(initial=0)[None]
  if bias is not None:
    # Small inputs stay small beside a bias; without one only ratios matter.
    largest = jnp.where(bias > 0, jnp.maximum(largest, 1), largest)
    bias = _divide(bias, largest)
  reach = jnp.broadcast_to(reach[:, None], strength.shape)
  strength = strength * _divide(reach, largest)
  total = strength.sum(axis=0)
  if bias is not None:
    total = total + bias
  total = jnp.where(total > 0, total, 1.0)
  return Incoming(
    strength / total[None], None if bias is None else bias / total
  )


def _float32(name: str, array: ArrayLike) -> jax.Array:
  array = jnp.asarray(array)
  if jnp.iscomplexobj(array):
    raise ValueError(f'{name} must hold real numbers, got {array.dtype}.')
  return array.astype(jnp.float32)


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
  if value is None:
    value = 1
  is_many = isinstance(value, Sequence | np.ndarray)
  values = tuple(value) if is_many else (value,) * count
  if len(values) != count or not all(_is_whole(v, 1) for v in values):
    raise ValueError(
      f'{name} must be one whole number >= 1, or {count} of them, got '
      f'{value!r}.'
    )
  return tuple(int(v) for v in values)


def _is_whole(value: Any, least: int) -> bool:
  return isinstance(value, int | np.integer) and int(value) >= least


def _pads(
  padding: Any,
  spatial: Sequence[int],
  spans: Sequence[int],
  strides: Sequence[int],
) -> list[tuple[int, int]]:
  """(before, after) for each axis; `spans` are the windows with their gaps."""
  if isinstance(padding, str):
    if padding == 'CAUSAL' and len(spatial) == 1:
      return [(spans[0] - 1, 0)]
    if padding.upper() in _PADDINGS:
      return list(jax.lax.padtype_to_pads(spatial, spans, strides, padding))
  pads = [padding] * len(spatial) if _is_whole(padding, 0) else padding
  try:
    pairs = [(p, p) if _is_whole(p, 0) else tuple(p) for p in pads]
  except TypeError:
    pairs = []
  if len(pairs) != len(spatial) or not all(
    len(pair) == 2 and all(_is_whole(p, 0) for p in pair) for pair in pairs
  ):
    raise ValueError(
      f'padding must be one of {", ".join(map(repr, _PADDINGS))}, of one axis '
      "also 'CAUSAL', a number >= 0, or a number or (before, after) each "
      f'for {len(spatial)} spatial axes; got {padding!r}.'
    )
  return [(int(before), int(after)) for before, after in pairs]
