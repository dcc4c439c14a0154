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
"""A function in float64 throughout, also where it computes in shorter floats.

A network of mixed precision casts its activations down by itself, so giving it
float64 does not make it exact. Here the primitives of its graph are run with
what they cast, or accumulate, left in float64.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import equations
from scl_jax.graph import nodes

PyTree = Any

_DTYPES = ('new_dtype', 'preferred_element_type', 'dtype')


def in_float64(graph: nodes.Graph) -> Callable[..., PyTree]:
  """Runs a function without its casts to shorter floats.

  What stays closed, such as a `scan`, and what knows no float64 is run as it
  is, on rounded inputs.

  Args:
    graph: Of any function `fn(params, *inputs)`, from `nodes.trace`; in any
      dtypes.

  Returns:
    A function of the same arguments, whose results are float64 where they were
    shorter floats. To be called where `jax.enable_x64` holds.
  """

  def run(params: PyTree, *inputs: Any) -> PyTree:
    found = {v: _widen(value) for v, value in graph.constants.items()}
    given = jax.tree.leaves((params, inputs))
    found.update(
      zip((*graph.leaves, *graph.inputs), map(_widen, given), strict=True)
    )
    for node in graph.nodes:
      dtypes = [graph.avals[v].dtype for v in node.inputs]
      results = _run(node, [found[v] for v in node.inputs], dtypes)
      found.update(zip(node.outputs, results, strict=True))
    return jax.tree.unflatten(graph.out_tree, [found[v] for v in graph.outputs])

  return run


def is_float64(graph: nodes.Graph) -> bool:
  """Whether no floating point number of a graph is shorter than that.

  Args:
    graph: From `nodes.trace`.

  Returns:
    `False` of a function that casts down by itself.
  """
  return not any(_is_shorter(aval.dtype) for aval in graph.avals)


def _run(
  node: nodes.Node, values: Sequence[Any], dtypes: Sequence[Any]
) -> Sequence[Any]:
  """The outputs of a node, in float64 if it can be."""
  if node.name == 'reduce_precision':
    return values
  if not equations.holds_body(node.params):
    wide = {
      name: np.dtype(np.float64)
      for name in _DTYPES
      if name in node.params and _is_shorter(node.params[name])
    }
    try:
      return node.bind(*values, **{**node.params, **wide})
    except (TypeError, ValueError, NotImplementedError):
      pass  # its inputs have to be of one kind
  narrow = [
    jnp.asarray(value, dtype) if _is_shorter(dtype) else value
    for value, dtype in zip(values, dtypes, strict=True)
  ]
  return [_widen(result) for result in node.bind(*narrow, **node.params)]


def _widen(value: Any) -> Any:
  is_short = _is_shorter(jnp.result_type(value))
  return jnp.asarray(value, np.float64) if is_short else value


def _is_shorter(dtype: Any) -> bool:
  return (
    dtype is not None
    and jnp.issubdtype(dtype, jnp.floating)
    and jnp.finfo(dtype).bits < 64
  )
