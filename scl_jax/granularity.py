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
"""What one mask variable stands for, and the shapes that follow from it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from scl_jax import patterns

One = str | tuple[int, ...]
Granularity = One | Mapping[str, One]


def check_granularity(granularity: Granularity) -> None:
  """Raises unless it is one of `scl_jax.init_mask_params`, for any weights.

  Args:
    granularity: As there.

  Raises:
    ValueError: If it is something else, or a pattern no regular expression.
  """
  if isinstance(granularity, Mapping):
    patterns.check_patterns('granularity', granularity)
    for one in granularity.values():
      _check_one(one)
  else:
    _check_one(granularity)


def variable_shapes(
  connections: Mapping[str, Any],
  granularity: Granularity,
  resolve_axes: Callable[[str, Any], tuple[int, ...]],
) -> dict[str, tuple[int, ...]]:
  """The shapes of the mask variables.

  Args:
    connections: The prunable leaves by their paths; shapes are read only.
    granularity: As for `scl_jax.init_mask_params`.
    resolve_axes: `(path, leaf) -> axes`, the feature axes; called where one
      variable stands for a feature.

  Returns:
    From paths to shapes.

  Raises:
    ValueError: If the granularity is unknown or does not fit.

  Example:
    >>> leaves = {'a': jnp.ones((4, 6)), 'b': jnp.ones((6, 2))}
    >>> blocks = {'a': (2, 2), '.*': 'connection'}
    >>> variable_shapes(leaves, blocks, lambda path, leaf: (-1,))
    {'a': (2, 3), 'b': (6, 2)}
  """
  check_granularity(granularity)
  if isinstance(granularity, Mapping):
    patterns.check_matches('granularity', granularity, list(connections))
  shapes = {}
  for path, leaf in connections.items():
    one = granularity
    if isinstance(one, Mapping):
      one = patterns.look_up(one, path)
      if one is None:
        raise ValueError(
          f'granularity has no pattern for {path!r}; a last one of '
          "'.*' takes all that is left."
        )
    shapes[path] = _variable_shape(path, leaf, one, resolve_axes)
  return shapes


def _check_one(granularity: Any) -> None:
  is_block = (
    isinstance(granularity, (tuple, list))
    and len(granularity) > 0
    and all(
      isinstance(size, int | np.integer)
      and not isinstance(size, bool)
      and size > 0
      for size in granularity
    )
  )
  is_name = isinstance(granularity, str) and granularity in (
    'connection',
    'feature',
  )
  if not is_block and not is_name:
    raise ValueError(
      "granularity must be 'connection', 'feature' or a block shape such as "
      f'(4, 4); got {granularity!r}.'
    )


def _variable_shape(
  path: str,
  leaf: Any,
  granularity: One,
  resolve_axes: Callable[[str, Any], tuple[int, ...]],
) -> tuple[int, ...]:
  shape = jnp.shape(leaf)
  # Without entries there is nothing for a variable of a feature to stand for.
  if granularity == 'connection' or 0 in shape:
    return shape
  if isinstance(granularity, str):
    axes = resolve_axes(path, leaf)
    return tuple(d if axis in axes else 1 for axis, d in enumerate(shape))
  if len(granularity) > len(shape):
    raise ValueError(
      f'granularity {granularity} has more axes than {path!r}, which has '
      f'shape {shape}.'
    )
  block = (1,) * (len(shape) - len(granularity)) + tuple(granularity)
  return tuple(-(-d // size) for d, size in zip(shape, block, strict=True))
