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
"""What kernels that are written in LLVM's terms have in common.

Vectors whose width is chosen here stay in registers; a loop in Python, which
numba compiles, may or may not be turned into such.
"""

from collections.abc import Iterator
from typing import Any

from llvmlite import binding
from llvmlite import ir
from numba.core import types

# Floats of a vector: what fills a register of AVX-512, else of AVX2.
LANES = 16 if binding.get_host_cpu_features().get('avx512f', False) else 8


class Writer:
  """Writes what an intrinsic does with its arguments.

  Args of the constructor are those of numba's code generators.
  """

  def __init__(self, context: Any, builder: Any, kinds: Any, args: Any):
    self._context = context
    self._builder = builder
    self._kinds = kinds
    self._args = args

  def position(self, index: int) -> Any:
    """An integer argument as an index."""
    return self._context.cast(
      self._builder, self._args[index], self._kinds[index], types.intp
    )

  def pointer(self, index: int, at: Any) -> Any:
    """Where entry `at` of an array argument is."""
    array = self._context.make_array(self._kinds[index])
    data = array(self._context, self._builder, self._args[index]).data
    return self._builder.gep(data, [at])

  def vectors(self, pointer: Any, lanes: int, count: int) -> Iterator[Any]:
    """Where vectors are that follow one another."""
    vector = ir.VectorType(ir.FloatType(), lanes)
    for index in range(count):
      entry = ir.Constant(ir.IntType(64), index * lanes)
      place = self._builder.gep(pointer, [entry])
      yield self._builder.bitcast(place, vector.as_pointer())

  def everywhere(self, number: Any, lanes: int) -> Any:
    """A vector of one number."""
    unset = ir.Constant(ir.VectorType(ir.FloatType(), lanes), ir.Undefined)
    lane = ir.IntType(32)
    one = self._builder.insert_element(unset, number, ir.Constant(lane, 0))
    zeros = ir.Constant(ir.VectorType(lane, lanes), [0] * lanes)
    return self._builder.shuffle_vector(one, unset, zeros)
