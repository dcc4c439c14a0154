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
"""Which axes of a leaf are its features.

A feature is one output unit: a neuron, a filter, one index of a kernel's output
axes. The frameworks disagree about the place of these axes:

| leaf | shape | feature axes |
|---|---|---|
| Flax, Haiku: `kernel`, `w` | (..., in, out) | (-1,) |
| Equinox, PyTorch layout: `weight` | (out, in, ...) | (0,) |
| Flax attention: kernel of `query`, ... | (in, heads, depth) | (-2, -1) |
| Flax attention: kernel of `out` | (heads, depth, out) | (-1,) |
| embeddings: `embedding`, `embed.../weight` | (entries, features) | (-1,) |

Names decide, the leaf's own and its layer's, never the rank alone: a rank-3
`kernel` may be a 1-D convolution, an attention projection or a stack of
matrices. Where names do not settle it, as below Linen's `Scan...` and
`Vmap...` and Haiku's `layer_stack`, or for a `weight` of rank 3 outside of a
`conv...`, `feature_axes` must. No name tells a stack of convolutions that
Linen's `scan` was given a name for from one convolution of a rank more.
"""

from collections.abc import Callable, Iterable, Mapping
import numbers
import re
from typing import Any

import jax.numpy as jnp

from scl_jax import patterns
from scl_jax import tree as tree_lib

Axes = tuple[int, ...]
FeatureAxes = (
  None
  | int
  | Axes
  | Mapping[str, int | Axes]
  | Callable[[str, Any], int | Axes]
)


def default_feature_axes(path: str, leaf: Any) -> Axes:
  """The feature axes that the leaf's name implies.

  Args:
    path: The leaf's path, such as `'Dense_0/kernel'`.
    leaf: The array.

  Returns:
    A tuple of axes; negative ones count from the end.

  Raises:
    ValueError: If the name leaves it open.
  """
  *parents, name = [n.lower() for n in tree_lib.names_of(path)] or ['']
  parent = parents[-1] if parents else ''  # those above it are of other layers
  rank = jnp.ndim(leaf)
  # What Linen and Haiku make of several layers has one more axis, or has not.
  is_stack = any(
    n.startswith(('scan', 'vmap')) or 'layer_stack' in n for n in parents
  )
  if 'weight' in name:
    # An embedding table has one row an entry in every framework; patches are
    # embedded by a projection.
    if rank == 2 and 'embed' in parent and 'patch' not in parent:
      return (-1,)
    # Of rank 3 a 1-D convolution, or a stack that `vmap` has made.
    if rank != 3 or 'conv' in parent + name:
      return (0,)
    examples = '(0,) for a convolution, (0, 1) for a stack of layers'
  else:
    if rank == 2 or not (name.startswith('kernel') or is_stack):
      return (-1,)
    if not is_stack:
      is_projection = parent in ('query', 'key', 'value')
      if rank == 3 and is_projection:
        return (-2, -1)
      if 'conv' in parent or (rank == 3 and parent == 'out'):
        return (-1,)
      # A 2-D convolution, HWIO; else a stack of projections, or a convolution.
      if rank == 4 and not is_projection:
        return (-1,)
    examples = (
      '(-1,) for a convolution, (-2, -1) for a projection onto heads, or '
      '(0, -1) for a stack of matrices, as flax.linen.scan makes it'
    )
  raise ValueError(
    f'The feature axes of {path!r}, shape {jnp.shape(leaf)}, do not follow '
    f'from its name. Set feature_axes={{{re.escape(path)!r}: ...}} to '
    f'{examples}.'
  )


def resolve_feature_axes(
  feature_axes: FeatureAxes = None,
) -> Callable[[str, Any], Axes]:
  """Turns a description of feature axes into a function of path and leaf.

  Args:
    feature_axes: `None` for `default_feature_axes`; one axis or a tuple of
      axes for every leaf; a mapping from regular expressions, matched against
      whole paths, to axes (first match wins, other leaves get the default); or
      a function `(path, leaf) -> axes`.

  Returns:
    A function `(path, leaf) -> axes` whose axes are sorted and non-negative.
    It raises `ValueError` for axes out of range or named twice.

  Raises:
    ValueError: If it is none of these, or a pattern no regular expression.

  Example:
    >>> axes = resolve_feature_axes({'out/.*': (-1,)})
    >>> axes('out/kernel', jnp.ones((4, 8, 16)))
    (2,)
  """
  choose: Callable[[str, Any], int | Axes]
  if feature_axes is None:
    choose = default_feature_axes
  elif callable(feature_axes):
    choose = feature_axes
  elif isinstance(feature_axes, Mapping):
    patterns.check_patterns('feature_axes', feature_axes)
    for axes in feature_axes.values():
      _as_axes(axes)

    def look_up(path: str, leaf: Any) -> int | Axes:
      axes = patterns.look_up(feature_axes, path)
      return default_feature_axes(path, leaf) if axes is None else axes

    choose = look_up
  else:
    axes = _as_axes(feature_axes)
    choose = lambda path, leaf: axes

  return lambda path, leaf: _normalise(choose(path, leaf), path, leaf)


def check_feature_axes(feature_axes: FeatureAxes, weights: tree_lib.PyTree):
  """Raises unless the axes fit every leaf and every pattern matches one.

  Args:
    feature_axes: As for `resolve_feature_axes`.
    weights: The prunable leaves, with `None` elsewhere.

  Raises:
    ValueError: If an axis is out of range, or a pattern matches no leaf.
  """
  resolve = resolve_feature_axes(feature_axes)
  tree_lib.map_with_path(resolve, weights)
  if isinstance(feature_axes, Mapping):
    patterns.check_matches(
      'feature_axes', feature_axes, tree_lib.paths(weights)
    )


def _as_axes(axes: Any) -> Axes:
  if isinstance(axes, numbers.Integral):
    return (int(axes),)
  if isinstance(axes, Iterable):
    each = tuple(axes)
    if all(isinstance(axis, numbers.Integral) for axis in each):
      return tuple(int(axis) for axis in each)
  raise ValueError(
    'feature_axes must be None, an axis, a tuple of axes, a mapping from '
    'patterns of paths to these, or a function (path, leaf) -> axes; got '
    f'{axes!r}.'
  )


def _normalise(axes: int | Axes, path: str, leaf: Any) -> Axes:
  rank = jnp.ndim(leaf)
  axes = _as_axes(axes)
  if any(not -rank <= axis < rank for axis in axes):
    raise ValueError(
      f'feature_axes {axes} are out of range for {path!r}, which has shape '
      f'{jnp.shape(leaf)}.'
    )
  positive = sorted({axis % rank for axis in axes})
  if len(positive) != len(axes):
    raise ValueError(f'feature_axes {axes} name an axis of {path!r} twice.')
  return tuple(positive)
