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
"""What gates close, next to each other."""

from typing import Any

import jax
from jax import core
import jax.numpy as jnp
import numpy as np

from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def ratios(gate_means: PyTree, costs: PyTree | None) -> list[jax.Array]:
  """The cost of each gate over the mean cost of all.

  Args:
    gate_means: Arrays [*gates], at least one gate.
    costs: A tree like it of numbers > 0 or arrays that broadcast to its leaves;
      `None`: all the same.

  Returns:
    One float32 array for each leaf of `gate_means`; exactly 1 where all gates
    cost the same.

  Raises:
    ValueError: If costs do not fit, or are not > 0.
  """
  if costs is None:
    costs = jax.tree.map(lambda _: 1.0, gate_means)
  try:
    rows = tree_lib.zip_leaves(gate_means, costs)
  except ValueError as error:
    raise ValueError(f'costs must fit gate_means. {error}') from error
  is_known = not any(isinstance(cost, core.Tracer) for _, _, cost in rows)
  # What is known may be finite, or more than 0, in float64 alone.
  lib, dtype = (np, np.float64) if is_known else (jnp, jnp.float32)
  spread = []
  for path, means, cost in rows:
    if not (isinstance(cost, core.Tracer) or _is_positive(cost)):
      raise ValueError(
        'costs must hold finite numbers > 0 for all gates; got '
        f'{"none" if cost is None else repr(cost)} for {path!r}.'
      )
    shape = jnp.shape(means)
    try:
      spread.append(lib.broadcast_to(lib.asarray(cost, dtype), shape))
    except ValueError as error:
      raise ValueError(
        f'costs must broadcast to the gates; got {jnp.shape(cost)} for the '
        f'{shape} of {path!r}.'
      ) from error
  largest = lib.max(lib.stack([lib.max(cost) for cost in spread if cost.size]))
  spread = [cost / largest for cost in spread]  # whose sum is finite
  mean = sum(lib.sum(cost) for cost in spread) / sum(c.size for c in spread)
  return [jnp.asarray(cost / mean, jnp.float32) for cost in spread]


def _is_positive(cost: Any) -> bool:
  values = np.asarray(cost)
  if not jnp.issubdtype(values.dtype, jnp.number):
    return False
  return bool(np.all(np.isfinite(values)) and np.all(values > 0))
