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
"""Transposition by blocks that stay in registers.

A block is read as vectors that are contiguous in the source, turned, and
written as vectors that are contiguous in the target.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
import numba
from numba.core import types
from numba.extending import intrinsic

from scl_jax.inference.vectors import writer


def _turn(lanes: int) -> Callable[..., None]:
  """What transposes a square block.

  Args:
    lanes: Its width and height, a power of two.

  Returns:
    `turn(source, origin, columns, y, target, to, rows, x)`, for compiled
    functions. For i and j below `lanes` it copies source[origin + columns[y +
    j] + i] to target[to + rows[x + i] + j]; nothing is checked.
  """

  @intrinsic
  def turn(_, source, origin, columns, y, target, to, rows, x):
    signature = types.void(source, origin, columns, y, target, to, rows, x)

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
      code = writer.Writer(context, builder, signature.args, args)

      def place(array, base, table, first, index):
        """The vector of an array whose offset entry `index` tells."""
        entry = builder.add(
          code.position(first), ir.Constant(ir.IntType(64), index)
        )
        offset = builder.load(code.pointer(table, entry))
        offset = builder.add(offset, code.position(base))
        return next(code.vectors(code.pointer(array, offset), lanes, 1))

      block = [
        builder.load(place(0, 1, 2, 3, index), align=4)
        for index in range(lanes)
      ]
      # Squares beside the diagonal trade places, from the smallest on.
      size = 1
      while size < lanes:
        for index in range(lanes):
          if not index & size:
            pair = block[index], block[index + size]
            low = [
              n if not n & size else lanes + n - size for n in range(lanes)
            ]
            high = [
              n + size if not n & size else lanes + n for n in range(lanes)
            ]
            block[index], block[index + size] = (
              builder.shuffle_vector(*pair, _constant(picked))
              for picked in (low, high)
            )
        size *= 2
      for index, vector in enumerate(block):
        builder.store(vector, place(4, 5, 6, 7, index), align=4)
      return context.get_dummy_value()

    return signature, write

  return turn


def _constant(numbers: list[int]) -> Any:
  return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


_turn_4, _turn_8, _turn_16 = _turn(4), _turn(8), _turn(16)


@numba.njit(cache=True, error_model='numpy', nogil=True)
def transpose(source, target, rows, columns, outer, lanes):
  """Copies source[columns[y] + x] to target[rows[x] + y], for all x and y.

  Args:
    source: float32, flat, from the first entry on.
    target: Likewise.
    rows: int64 [width], where in `target` the rows start; each `lanes` entries
      that follow one another in `source` are entries of as many rows.
    columns: int64 [height], where in `source` the columns start.
    outer: ((count, step in `source`, step in `target`), the same), what is
      repeated.
    lanes: 4, 8 or 16, at most `width` and `height`: how wide blocks are.
  """
  (outermost, from_0, to_0), (inner, from_1, to_1) = outer
  for i in range(outermost):
    for j in range(inner):
      origin, to = i * from_0 + j * from_1, i * to_0 + j * to_1
      for first in range(0, rows.size, lanes):
        # The last one overlaps the one before.
        x = min(first, rows.size - lanes)
        for start in range(0, columns.size, lanes):
          y = min(start, columns.size - lanes)
          if lanes == 16:
            _turn_16(source, origin + x, columns, y, target, to + y, rows, x)
          elif lanes == 8:
            _turn_8(source, origin + x, columns, y, target, to + y, rows, x)
          else:
            _turn_4(source, origin + x, columns, y, target, to + y, rows, x)
