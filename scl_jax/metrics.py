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
"""Measures of masks: arrays in, arrays out, jittable."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import features
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def live_connections(masks: PyTree) -> PyTree:
  """The number of live connections of each leaf.

  Args:
    masks: Masks of the weights' shapes, as `get_masks` gives them.

  Returns:
    A tree like `masks` of int32 scalars.

  Raises:
    ValueError: If it holds anything but arrays.

  Example:
    >>> live_connections({'w': jnp.eye(3), 'b': None})
    {'b': None, 'w': Array(3, dtype=int32)}
  """
  _check(masks)
  return jax.tree.map(lambda m: jnp.sum(m != 0, dtype=jnp.int32), masks)


def density(masks: PyTree) -> jax.Array:
  """The share of connections that are live, over all prunable leaves.

  What is not 0 is live. So params whose pruned entries are 0 may be given, but
  not mask variables: these are live where they are positive.

  Args:
    masks: Masks of the weights' shapes, as `get_masks` gives them; arrays
      count by their number of entries.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: If there is no mask, or anything but arrays.

  Example:
    >>> density({'w': jnp.eye(4), 'b': None})
    Array(0.25, dtype=float32)
  """
  _check(masks)
  leaves = jax.tree.leaves(masks)
  total = sum(m.size for m in leaves)
  if not total:
    raise ValueError('masks holds no connection, so there is no density.')
  live = sum(jnp.sum(m != 0, dtype=jnp.float32) for m in leaves)
  return jnp.asarray(live / float(total), jnp.float32)  # beyond int32, perhaps


def variable_density(
  masks: PyTree, sizes: PyTree, total: ArrayLike | None = None
) -> jax.Array:
  """`density` where a mask's entry may stand for several connections.

  Args:
    masks: Masks of the mask variables' shapes.
    sizes: A tree like `masks`: how many connections each entry stands for, as
      `masks.variable_sizes` gives it.
    total: What to give the share of, if not of the connections that are here.

  Returns:
    A float32 scalar in [0, 1]; 1 where there is no connection.

  Example:
    >>> variable_density({'w': jnp.array([1.0, 0.0])}, {'w': np.array([3, 1])})
    Array(0.75, dtype=float32)
  """
  live = jax.tree.map(
    lambda mask, n: jnp.sum(jnp.where(mask != 0, n, 0), dtype=jnp.int32),
    masks,
    sizes,
  )
  here = jax.tree.map(
    lambda mask, n: float(np.sum(np.broadcast_to(n, mask.shape))),
    masks,
    sizes,
  )
  # Each leaf as a float: the sum of all may be beyond int32.
  counts = [n.astype(jnp.float32) for n in jax.tree.leaves(live)]
  connections = sum(jax.tree.leaves(here))
  if not connections:
    return jnp.ones((), jnp.float32)
  return sum(counts, jnp.zeros((), jnp.float32)) / (
    connections if total is None else total
  )


def layer_density(masks: PyTree) -> PyTree:
  """The share of live connections of each leaf.

  Args:
    masks: Masks of the weights' shapes.

  Returns:
    A tree like `masks` of float32 scalars; 1 where there is no connection.

  Raises:
    ValueError: If it holds anything but arrays.

  Example:
    >>> layer_density({'w': jnp.eye(4), 'b': None})
    {'b': None, 'w': Array(0.25, dtype=float32)}
  """
  _check(masks)
  share = lambda m: jnp.mean(m != 0, dtype=jnp.float32)
  return jax.tree.map(
    lambda m: share(m) if m.size else jnp.ones((), jnp.float32), masks
  )


def dead_features(
  masks: PyTree, feature_axes: features.FeatureAxes = None
) -> PyTree:
  """The number of features of each leaf that have no live connection.

  Such a feature's output does not depend on the input; a bias still makes it a
  constant. A feature whose output nobody reads is not counted, nor one that has
  no connections at all.

  Args:
    masks: Masks of the weights' shapes.
    feature_axes: Which axes are features, see `scl_jax.features`.

  Returns:
    A tree like `masks` of int32 scalars.

  Raises:
    ValueError: If it holds anything but arrays, or the axes do not fit.

  Example:
    >>> dead_features({'kernel': jnp.array([[1.0, 0.0], [1.0, 0.0]])})
    {'kernel': Array(1, dtype=int32)}
  """
  _check(masks)
  resolve = features.resolve_feature_axes(feature_axes)

  def count(path, mask):
    axes = resolve(path, mask)
    inputs = tuple(axis for axis in range(mask.ndim) if axis not in axes)
    is_dead = ~jnp.any(mask != 0, axis=inputs)
    return jnp.sum(is_dead & (mask.size > 0), dtype=jnp.int32)

  return tree_lib.map_with_path(count, masks)


def _check(masks: PyTree) -> None:
  for path, mask in tree_lib.zip_leaves(masks):
    if not isinstance(mask, jax.Array | np.ndarray | np.generic):
      raise ValueError(
        'masks must hold arrays of 0 and 1, as get_masks gives them, but its '
        f'leaf {path!r} is {mask!r}.'
      )
    if 'rule_state' in path.split('/'):
      raise ValueError(
        'masks is the state of an optimizer: give get_masks(opt_state).'
      )
    if not (jnp.issubdtype(mask.dtype, np.number) or mask.dtype == bool):
      raise ValueError(
        f'masks must hold numbers, but its leaf {path!r} is of {mask.dtype}.'
      )
