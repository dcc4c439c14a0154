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
"""Offset-CSR: products with sparse weights that never gather a window.

Arrays lie features first and batch last, an image as [channels, rows, columns,
batch] with zeros around it. Then the connection of a convolution from tap
(i, j) of channel c is one number: how far the window's start at (c, i, j) is
from the buffer's. What it adds to an output row is its value times a contiguous
run of the buffer, for a dense layer as for a convolution.

The sums of a block of entries stay in registers while all connections of a
feature are added. A loop in Python, which numba compiles, would load and store
them for each connection: the block is written in LLVM's terms here.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
import numba
from numba.core import cgutils
from numba.core import types
from numba.extending import intrinsic

from scl_jax.inference.vectors import writer

# How many vectors of floats the sums of a block may be: half of the registers
# of AVX-512, of AVX2 and of NEON.
_MOST = writer.LANES
_LANES = writer.LANES


def _block(count: int) -> Callable[..., None]:
  """What sums up runs of `count` vectors.

  Args:
    count: How many vectors of `_LANES` entries.

  Returns:
    `block(source, offsets, values, first, stop, start, shift, out, at)`, for
    compiled functions. It writes shift + the sum of values[k] *
    source[offsets[k] + start:] for k from `first` to `stop`, of that many
    entries, to out[at:]. Arrays are one-dimensional, of float32 but for the
    offsets; nothing is checked.
  """

  @intrinsic
  def block(_, source, offsets, values, first, stop, start, shift, out, at):
    signature = types.void(
      source, offsets, values, first, stop, start, shift, out, at
    )

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
      code = writer.Writer(context, builder, signature.args, args)
      own = code.everywhere(args[6], _LANES)
      sums = [cgutils.alloca_once_value(builder, own) for _ in range(count)]
      begin = code.pointer(0, code.position(5))
      first, stop = code.position(3), code.position(4)
      step = ir.Constant(ir.IntType(64), 1)
      with cgutils.for_range_slice(builder, first, stop, step) as (k, _):
        offset = builder.load(code.pointer(1, k))
        offset = context.cast(
          builder, offset, signature.args[1].dtype, types.intp
        )
        value = code.everywhere(builder.load(code.pointer(2, k)), _LANES)
        runs = code.vectors(builder.gep(begin, [offset]), _LANES, count)
        for total, run in zip(sums, runs, strict=True):
          product = builder.fmul(
            value, builder.load(run, align=4), flags=('contract',)
          )
          added = builder.fadd(
            builder.load(total), product, flags=('contract',)
          )
          builder.store(added, total)
      target = code.pointer(7, code.position(8))
      runs = code.vectors(target, _LANES, count)
      for total, run in zip(sums, runs, strict=True):
        builder.store(builder.load(total), run, align=4)
      return context.get_dummy_value()

    return signature, write

  return block


def _finish(lanes: int) -> Callable[..., None]:
  """What finishes a few sums of a row.

  Args:
    lanes: How many.

  Returns:
    `finish(sums, n, other, beside, floor, out, at)`, for compiled functions.
    It writes max(sums[n:] + other[beside:], floor) to out[at:], of so many
    entries; nothing is checked. NaN stays.
  """

  @intrinsic
  def finish(_, sums, n, other, beside, floor, out, at):
    signature = types.void(sums, n, other, beside, floor, out, at)

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
      code = writer.Writer(context, builder, signature.args, args)

      def place(array, position):
        pointer = code.pointer(array, code.position(position))
        return next(code.vectors(pointer, lanes, 1))

      total = builder.load(place(0, 1), align=4)
      total = builder.fadd(total, builder.load(place(2, 3), align=4))
      least = code.everywhere(args[4], lanes)
      is_less = builder.fcmp_ordered('<', total, least)
      total = builder.select(is_less, least, total)
      builder.store(total, place(5, 6), align=4)
      return context.get_dummy_value()

    return signature, write

  return finish


_block_of_all = _block(_MOST)
_block_of_half = _block(_MOST // 2)
_block_of_quarter = _block(_MOST // 4)
_block_of_one = _block(1)

_finish_16, _finish_8, _finish_4, _finish_1 = (
  _finish(lanes) for lanes in (16, 8, 4, 1)
)


@numba.njit(error_model='numpy', inline='always')
def _finish_row(sums, n, other, beside, floor, out, at, run):
  """All of a row, by vectors."""
  stop = at + run
  while stop - at >= 16:
    _finish_16(sums, n, other, beside, floor, out, at)
    n, beside, at = n + 16, beside + 16, at + 16
  if stop - at >= 8:
    _finish_8(sums, n, other, beside, floor, out, at)
    n, beside, at = n + 8, beside + 8, at + 8
  if stop - at >= 4:
    _finish_4(sums, n, other, beside, floor, out, at)
    n, beside, at = n + 4, beside + 4, at + 4
  while at < stop:
    _finish_1(sums, n, other, beside, floor, out, at)
    n, beside, at = n + 1, beside + 1, at + 1


@numba.njit(cache=True, error_model='numpy', nogil=True)
def offset_csr(
  source, starts, offsets, values, shifts, grid, out, steps, other, other_steps,
  floor, scratch,
):  # fmt: skip
  """Writes max(sum of values * runs of source + shifts + other, floor).

  Works through tiles of whole rows, which are summed up in `scratch` with the
  gaps that lie between the rows of `source`, so that one run covers them all.

  Args:
    source: float32 [entries], the flat buffer.
    starts: int64 [features + 1], where a feature's connections start.
    offsets: [connections], where in `source` their runs start; integers.
    values: float32 [connections].
    shifts: float32 [features], what is added to each feature.
    grid: (rows, run, pitch, tile, part): the output's rows, their length, how
      far they are apart in `source`, how many are summed up at once, and how
      much of them; `run` unless `tile` is 1.
    out: float32, flat, from the first entry on.
    steps: (feature step, row step) of `out`.
    other: What to add, flat; a row of zeros for nothing.
    other_steps: Those of `other`.
    floor: 0 for a ReLU, else -inf.
    scratch: float32 [at least (tile - 1) * pitch + run].
  """
  rows, run, pitch, tile, part = grid
  for first in range(0, rows, tile):
    for begin in range(0, run, part):
      count, width = min(tile, rows - first), min(part, run - begin)
      length = (count - 1) * pitch + width
      for feature in range(shifts.size):
        shift = shifts[feature]
        k, stop = starts[feature], starts[feature + 1]
        n = 0
        while n < length:
          start, left = first * pitch + begin + n, length - n
          if left >= _MOST * _LANES:
            _block_of_all(
              source, offsets, values, k, stop, start, shift, scratch, n
            )
            n += _MOST * _LANES
          elif left >= _MOST // 2 * _LANES:
            _block_of_half(
              source, offsets, values, k, stop, start, shift, scratch, n
            )
            n += _MOST // 2 * _LANES
          elif left >= _MOST // 4 * _LANES:
            _block_of_quarter(
              source, offsets, values, k, stop, start, shift, scratch, n
            )
            n += _MOST // 4 * _LANES
          elif length >= _LANES:
            # The last one overlaps the one before.
            n, start = (
              min(n, length - _LANES),
              min(start, start + left - _LANES),
            )
            _block_of_one(
              source, offsets, values, k, stop, start, shift, scratch, n
            )
            n += _LANES
          else:
            total = shift
            for c in range(k, stop):
              total += values[c] * source[offsets[c] + start]
            scratch[n] = total
            n += 1
        for row in range(count):
          at = feature * steps[0] + (first + row) * steps[1] + begin
          beside = (
            feature * other_steps[0] + (first + row) * other_steps[1] + begin
          )
          _finish_row(
            scratch, row * pitch, other, beside, floor, out, at, width
          )
