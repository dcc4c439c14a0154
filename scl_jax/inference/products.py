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
"""Products with constant weights: dense layers and convolutions in one form.

A `Product` sees its operand as one flat buffer. Each output row is a sum of
runs of the buffer, one for each weight of the feature; a dense layer has one
row, the batch. Where a convolution strides, its operand is split into phases
(even and odd rows and columns, say): on these it does not stride. Where it is
transposed, zeros are put between the entries of its operand.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import copying
from scl_jax.inference import layout

Step = Callable[[], object]

_FEW = 1 << 14  # entries; below, one call of a copy is dearer than its strides


class Product(NamedTuple):
  """out[feature, row, :] = sum of weights * runs of the operand's buffer.

  Attributes:
    weights: [groups, features of a group, entries]. Features are numbered
      through the groups.
    offsets: [groups, entries], where in `source` the runs of an entry start.
    source: The flat buffer of the operand.
    copies: What fills the buffer, if the operand lies otherwise.
    pitch: How far in `source` the runs of successive rows are apart.
    grid: (features, rows, run), the shape of the result.
    axes: The result's axes in the order of `grid`, in which it shall lie.
  """

  weights: np.ndarray
  offsets: np.ndarray
  source: np.ndarray
  copies: list[Step]
  pitch: int
  grid: tuple[int, int, int]
  axes: tuple[int, ...]

  def rows_of(self, array: np.ndarray) -> np.ndarray | None:
    """An array like the result as [features, rows, run], if it lies so."""
    rows = layout.as_view(array.transpose(self.axes), self.grid)
    if rows is None or (rows.shape[2] > 1 and layout.entries(rows)[2] != 1):
      return None
    return rows


def feature_axes(
  node: nodes.Node, side: int, rank: int, weights_rank: int
) -> tuple[int, ...]:
  """The axes of a product's result that come from its weights.

  Args:
    node: A `dot_general` without batch axes, or a `conv_general_dilated`.
    side: Which operand the weights are.
    rank: Of the result.
    weights_rank: Of the weights.

  Returns:
    The axes.
  """
  numbers = node.params['dimension_numbers']
  if node.name == 'conv_general_dilated':
    return (numbers.out_spec[1],)
  count = weights_rank - len(numbers[0][side])
  return tuple(range(rank - count, rank) if side else range(count))


def of_dot(
  node: nodes.Node, side: int, weights: np.ndarray, operand: np.ndarray
) -> Product:
  """A dense layer. Which way its operand's axes lie is all the same to it.

  Args:
    node: A `dot_general` without batch axes.
    side: Which operand the weights are.
    weights: Their values.
    operand: The other one.

  Returns:
    The `Product`.
  """
  contracted = node.params['dimension_numbers'][0]
  order = layout.order_of(operand)
  pairs = dict(zip(contracted[1 - side], contracted[side], strict=True))
  summed = [axis for axis in order if axis in pairs]
  free = [axis for axis in order if axis not in pairs]
  features = [
    axis for axis in range(weights.ndim) if axis not in contracted[side]
  ]
  depth = math.prod(operand.shape[axis] for axis in summed)
  width = math.prod(weights.shape[axis] for axis in features)
  run = math.prod(operand.shape[axis] for axis in free)

  matrix = weights.transpose(*features, *(pairs[axis] for axis in summed))
  matrix = matrix.reshape(1, width, depth)
  columns = operand.transpose(*summed, *free)
  copies: list[Step] = []
  if not columns.flags.c_contiguous:
    buffer = layout.allocate(
      columns.shape, operand.dtype, range(columns.ndim)
    ).array
    copies.append(copying.step(buffer, columns))
    columns = buffer
  rank = len(features) + len(free)
  own = feature_axes(node, side, rank, weights.ndim)
  # The result's other axes are the free ones, in the order that they had.
  first = 0 if side else len(own)
  place = {axis: first + i for i, axis in enumerate(sorted(free))}
  return Product(
    weights=matrix,
    offsets=np.arange(depth)[None] * run,
    source=columns.reshape(-1),
    copies=copies,
    pitch=run,
    grid=(width, 1, run),
    axes=(*own, *(place[axis] for axis in free)),
  )


def of_conv(
  node: nodes.Node,
  weights: np.ndarray,
  operand: layout.Value,
  shape: Sequence[int],
) -> Product:
  """A convolution along one or two axes, in groups or not.

  It may stride, and its kernel, its operand or both may be dilated.

  Args:
    node: A `conv_general_dilated` that `is_conv` accepts.
    weights: Its kernel.
    operand: The maps.
    shape: Of the result.

  Returns:
    The `Product`.
  """
  numbers, params = node.params['dimension_numbers'], node.params
  kernel = weights.transpose(numbers.rhs_spec)
  strides, dilations = params['window_strides'], params['rhs_dilation']
  operand, spread = _dilated(node, operand)
  phases, copies = _phases(node, kernel.shape[2:], operand)
  # Rows that one-dimensional maps do not have.
  if len(strides) == 1:
    kernel, phases = kernel[:, :, None], phases[:, None, :, None]
    strides, dilations = (1, *strides), (1, *dilations)

  groups = params['feature_group_count']
  channels, *taps = kernel.shape[1:]
  at = layout.entries(phases)
  taps_at = []  # where each tap starts, along rows and along columns
  for axis, (count, stride, dilation) in enumerate(
    zip(taps, strides, dilations, strict=True)
  ):
    row, phase = np.divmod(np.arange(count) * dilation, stride)
    taps_at.append(phase * at[1 + axis] + row * at[3 + axis])
  depth = channels * math.prod(taps)
  channels_at = np.arange(groups * channels).reshape(groups, channels) * at[0]
  offsets = (
    channels_at[:, :, None, None] + taps_at[0][:, None] + taps_at[1]
  ).reshape(groups, depth)

  batch, features, *maps = (shape[axis] for axis in numbers.out_spec)
  return Product(
    weights=kernel.reshape(groups, len(kernel) // groups, depth),
    offsets=offsets,
    source=phases.reshape(-1),
    copies=[*spread, *copies],
    pitch=at[3],
    grid=(features, math.prod(maps[:-1]), maps[-1] * batch),
    axes=conv_order(numbers.out_spec),
  )


def conv_order(spec: Sequence[int]) -> tuple[int, ...]:
  """The axes of a convolution's maps: channels, rows, columns, batch."""
  batch, channels, *maps = spec
  return (channels, *maps, batch)


def conv_margins(node: nodes.Node) -> layout.Margins | None:
  """The zeros that a convolution wants around its operand, or its dilated one.

  Args:
    node: A `conv_general_dilated`.

  Returns:
    Entries before and after, for each axis; `None` for a convolution that
    strides or crops, as it copies what it reads anyway.
  """
  params = node.params
  if set(params['window_strides']) != {1} or np.min(params['padding']) < 0:
    return None
  spec = params['dimension_numbers'].lhs_spec
  margins = [(0, 0)] * len(spec)
  for axis, padding in zip(spec[2:], params['padding'], strict=True):
    margins[axis] = tuple(padding)
  return tuple(margins)


def is_transposed(node: nodes.Node) -> bool:
  """Whether a convolution has its operand dilated."""
  return any(n != 1 for n in node.params['lhs_dilation'])


def _dilated(
  node: nodes.Node, operand: layout.Value
) -> tuple[layout.Value, list[Step]]:
  """The operand with zeros between its entries, as far as there are to be."""
  if not is_transposed(node):
    return operand, []
  spec = node.params['dimension_numbers'].lhs_spec
  shape, index = list(operand.array.shape), [slice(None)] * len(spec)
  for axis, step in zip(spec[2:], node.params['lhs_dilation'], strict=True):
    shape[axis] = max(0, (shape[axis] - 1) * step + 1)
    index[axis] = slice(None, None, step)
  dilated = layout.allocate(
    shape, operand.array.dtype, conv_order(spec), conv_margins(node)
  )
  return dilated, [copying.step(dilated.array[(*index, ...)], operand.array)]


def _phases(
  node: nodes.Node, taps: Sequence[int], operand: layout.Value
) -> tuple[np.ndarray, list[Step]]:
  """The operand as [channels, *phases, *maps, batch], contiguous."""
  params = node.params
  order = conv_order(params['dimension_numbers'].lhs_spec)
  strides, paddings = params['window_strides'], params['padding']
  count = len(strides)
  frame = operand.frame.transpose(order)
  if operand.margins == conv_margins(node) and frame.flags.c_contiguous:
    return frame[(slice(None), *[None] * count)], []

  array = operand.array.transpose(order)
  channels, *maps, batch = array.shape
  sizes = [
    -(-(n + sum(padding)) // stride)
    for n, padding, stride in zip(maps, paddings, strides, strict=True)
  ]
  full = (channels, *strides, *sizes, batch)
  buffer = layout.allocate(full, array.dtype, range(len(full))).array
  runs = [
    _runs(n, size, stride, padding, used)
    for n, size, stride, padding, used in zip(
      maps, sizes, strides, paddings, _used_phases(params, taps), strict=True
    )
  ]
  if array.size <= _FEW:
    runs = [_merged(axis, s) for axis, s in zip(runs, strides, strict=True)]
  copies: list[Step] = []
  for block in itertools.product(*runs):
    target = buffer[
      (
        slice(None),
        *(slice(run.phase, run.phase + run.phases) for run in block),
        *(slice(run.first, run.first + run.length) for run in block),
      )
    ]
    origin = array
    # An axis becomes (positions, phases); then all phases go to the front.
    for axis, (run, stride) in enumerate(zip(block, strides, strict=True)):
      at = 1 + 2 * axis
      stop = run.start + stride * (run.length - 1) + run.phases
      picked = slice(run.start, stop, stride // run.phases)
      origin = origin[(slice(None),) * at + (picked,)]
      shape = (*origin.shape[:at], run.length, run.phases)
      origin = origin.reshape(*shape, *origin.shape[at + 1 :])
    origin = origin.transpose(
      0, *range(2, 2 + 2 * count, 2), *range(1, 1 + 2 * count, 2), -1
    )
    copies.append(copying.step(target, origin))
  return buffer, copies


class _Run(NamedTuple):
  """Phases of an axis that are copied at once.

  Attributes:
    phase: The first one.
    phases: How many.
    first: The first position in a phase that is not of the margin.
    length: How many positions are not.
    start: The entry that the first one comes from.
  """

  phase: int
  phases: int
  first: int
  length: int
  start: int


def _used_phases(
  params: Mapping[str, Any], taps: Sequence[int]
) -> list[set[int]]:
  return [
    {tap * dilation % stride for tap in range(number)}
    for number, dilation, stride in zip(
      taps, params['rhs_dilation'], params['window_strides'], strict=True
    )
  ]


def _runs(
  entries: int,
  size: int,
  stride: int,
  padding: Sequence[int],
  used: Iterable[int],
) -> list[_Run]:
  """One run for each phase of an axis that is used and has entries."""
  before = padding[0]
  runs = []
  for phase in sorted(used):
    # Position i of the phase is entry phase + stride * i - before.
    first = -((phase - before) // stride) if phase < before else 0
    start = phase + stride * first - before
    length = len(range(start, entries, stride)[: max(0, size - first)])
    if length:
      runs.append(_Run(phase, 1, first, length, start))
  return runs


def _merged(runs: list[_Run], stride: int) -> list[_Run]:
  """All phases at once, if they are used and as long as one another."""
  if len(runs) < stride or len({run[2:4] for run in runs}) > 1:
    return runs
  return [runs[0]._replace(phases=stride)]
