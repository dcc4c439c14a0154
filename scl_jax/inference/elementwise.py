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
"""Primitives that act on each entry, in NumPy."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from scl_jax.graph import nodes
from scl_jax.inference import errors
from scl_jax.inference import kernels
from scl_jax.inference import products

Step = products.Step
Operands = Sequence[np.ndarray]


def _clamp(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  del node
  low, operand, high = operands
  return [
    functools.partial(np.maximum, low, operand, out=out),
    functools.partial(np.minimum, out, high, out=out),
  ]


def _div(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  if not jnp.issubdtype(out.dtype, jnp.inexact):
    raise errors.unsupported(node, ' of integers')
  return [functools.partial(np.divide, *operands, out=out)]


def _logistic(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  del node
  return [
    functools.partial(np.negative, *operands, out=out),
    functools.partial(np.exp, out, out=out),
    functools.partial(np.add, out, out.dtype.type(1), out=out),
    functools.partial(np.reciprocal, out, out=out),
  ]


def _rsqrt(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  del node
  return [
    functools.partial(np.sqrt, *operands, out=out),
    functools.partial(np.reciprocal, out, out=out),
  ]


def _integer_pow(
  node: nodes.Node, operands: Operands, out: np.ndarray
) -> list[Step]:
  power = node.params['y']
  if power == 2:
    return [functools.partial(np.square, *operands, out=out)]
  if not jnp.issubdtype(out.dtype, jnp.inexact):
    raise errors.unsupported(node, ' of integers')
  return [
    functools.partial(np.power, *operands, out.dtype.type(power), out=out)
  ]


def _round(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  if node.params['rounding_method'].name != 'TO_NEAREST_EVEN':
    raise errors.unsupported(node, ' away from zero')
  return [functools.partial(np.rint, *operands, out=out)]


def _erf(node: nodes.Node, operands: Operands, out: np.ndarray) -> list[Step]:
  kernel = {'erf': kernels.erf, 'erfc': kernels.erfc}[node.name]
  return [functools.partial(kernels.elementwise(kernel), *operands, out=out)]


UFUNCS: Mapping[str, Callable[..., Any]] = {
  'abs': np.abs,
  'acos': np.arccos,
  'acosh': np.arccosh,
  'add': np.add,
  'add_any': np.add,
  'and': np.bitwise_and,
  'asin': np.arcsin,
  'asinh': np.arcsinh,
  'atan': np.arctan,
  'atan2': np.arctan2,
  'atanh': np.arctanh,
  'cbrt': np.cbrt,
  'ceil': np.ceil,
  'cos': np.cos,
  'cosh': np.cosh,
  'eq': np.equal,
  'exp': np.exp,
  'exp2': np.exp2,
  'expm1': np.expm1,
  'floor': np.floor,
  'ge': np.greater_equal,
  'gt': np.greater,
  'is_finite': np.isfinite,
  'le': np.less_equal,
  'log': np.log,
  'log1p': np.log1p,
  'lt': np.less,
  'max': np.maximum,
  'min': np.minimum,
  'mul': np.multiply,
  'ne': np.not_equal,
  'neg': np.negative,
  'not': np.invert,
  'or': np.bitwise_or,
  'pow': np.power,
  'rem': np.fmod,
  'sign': np.sign,
  'sin': np.sin,
  'sinh': np.sinh,
  'sqrt': np.sqrt,
  'square': np.square,
  'sub': np.subtract,
  'tan': np.tan,
  'tanh': np.tanh,
  'xor': np.bitwise_xor,
}

BUILDERS = {
  'clamp': _clamp,
  'div': _div,
  'erf': _erf,
  'erfc': _erf,
  'integer_pow': _integer_pow,
  'logistic': _logistic,
  'round': _round,
  'rsqrt': _rsqrt,
}
