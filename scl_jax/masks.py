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
"""Mask variables, and what they make of weights.

A mask variable usually stands for one connection. It may also stand for a
feature or a block of connections: its array is then smaller than the weight's,
and `expand` says which entry stands for what. An axis of size n covers an axis
of size d in runs of ceil(d / n), the last one perhaps shorter, so that n = d is
one variable a connection and n = 1 is broadcasting.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import checks
from scl_jax import features
from scl_jax import granularity as granularity_lib
from scl_jax import ste
from scl_jax import tree as tree_lib
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable as select_prunable

PyTree = tree_lib.PyTree


def init_mask_params(
  weights: PyTree,
  *,
  prunable: Prunable = None,
  init_value: float = 0.3,
  granularity: granularity_lib.Granularity = 'connection',
  feature_axes: features.FeatureAxes = None,
) -> PyTree:
  """Mask variables m for the prunable leaves of `weights`.

  Args:
    weights: Any pytree of arrays.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.
    init_value: The value that all mask variables start from; connections start
      live if it is positive.
    granularity: What one mask variable stands for: `'connection'`; `'feature'`,
      one output unit; or a block of connections, as a tuple of sizes for the
      trailing axes, (4, 4) say. Where a block does not divide an axis, the axis
      is cut into the same number of nearly equal parts. Or a mapping from
      regular expressions for whole paths to these; the first match wins, and
      each prunable leaf needs one.
    feature_axes: Which axes are features, see `scl_jax.features`; read for
      `'feature'` only.

  Returns:
    A tree like `weights` of float32 arrays, `None` at leaves that are not
    prunable.

  Raises:
    ValueError: For an unknown granularity, a block that does not fit, a pattern
      that matches no prunable leaf, or an empty selection.

  Example:
    >>> weights = {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)}
    >>> init_mask_params(weights, granularity='feature')['kernel']
    Array([[0.3, 0.3]], dtype=float32)
  """
  checks.check_scalar('init_value', init_value, lambda _: True, 'finite')
  chosen = select_prunable(weights, prunable)
  rows = tree_lib.zip_leaves(weights, chosen)
  shapes = granularity_lib.variable_shapes(
    {path: leaf for path, leaf, is_prunable in rows if is_prunable},
    granularity,
    features.resolve_feature_axes(feature_axes),
  )

  def init(path, weight, is_prunable):
    if not is_prunable:
      return None
    shape = shapes[path]
    if shape == jnp.shape(weight):  # full_like keeps the sharding
      return jnp.full_like(weight, init_value, dtype=jnp.float32)
    # And so do sums.
    zeros = contract(jnp.zeros_like(weight, dtype=jnp.float32), shape)
    return zeros + jnp.float32(init_value)

  return tree_lib.map_with_path(init, weights, chosen)


def effective_params(
  weights: PyTree,
  mask_params: PyTree,
  *,
  estimator: ste.Estimator = 'identity',
) -> PyTree:
  """What the model is applied with: weights * S(mask_params).

  Differentiable in both arguments; the gradient with respect to a mask variable
  is (∂L/∂params · weights) s'(m), summed over the connections it stands for.

  Args:
    weights: Any pytree of arrays.
    mask_params: From `init_mask_params`; `None` leaves a weight as it is.
    estimator: The straight-through estimator, see `scl_jax.ste`.

  Returns:
    A tree like `weights`, in its dtypes.

  Raises:
    ValueError: If the trees do not fit or the estimator is unknown.

  Example:
    >>> effective_params({'w': jnp.ones(2)}, {'w': jnp.array([0.1, -0.1])})
    {'w': Array([1., 0.], dtype=float32)}
  """
  ste.get_estimator(estimator)

  def step(m):
    return ste.unit_step(m, estimator)

  return apply_masks(weights, jax.tree.map(step, mask_params))


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
  """Params * masks.

  Args:
    params: Any pytree of arrays.
    masks: Arrays of {0, 1} that expand to the shapes of `params`; `None` leaves
      a leaf as it is.

  Returns:
    A tree like `params`, in its dtypes.

  Raises:
    ValueError: If the trees do not fit.

  Example:
    >>> params = {'w': jnp.ones(2), 'b': 3.0}
    >>> apply_masks(params, {'w': jnp.array([1, 0]), 'b': None})
    {'b': 3.0, 'w': Array([1., 0.], dtype=float32)}
  """

  def times(leaf, mask):
    return leaf * mask.astype(jnp.result_type(leaf))

  return _map_masked(times, params, masks)


def keep_live(tree: PyTree, masks: PyTree) -> PyTree:
  """What stands at live connections, and exactly 0 elsewhere.

  Where a number is NaN or infinite the product with a mask of 0 is NaN: so is
  the gradient of a norm at a feature that is wholly pruned.

  Args:
    tree: Weights, or gradients or steps of weights.
    masks: As for `apply_masks`.

  Returns:
    A tree like `tree`, in its dtypes.

  Raises:
    ValueError: If the trees do not fit.

  Example:
    >>> keep_live({'w': jnp.array([1, jnp.nan])}, {'w': jnp.array([1, 0])})
    {'w': Array([1., 0.], dtype=float32)}
  """
  return _map_masked(_select, tree, masks)


# Compiled, as each leaf needs it several times a step: else it takes a quarter
# longer to trace a step, and two thirds to run one without jit.
@jax.jit
def _select(leaf: jax.Array, mask: jax.Array) -> jax.Array:
  # Sharded as the leaf is, which explicit axes want.
  is_live = mask.astype(bool) & jnp.ones_like(leaf, dtype=bool)
  return jnp.where(is_live, leaf, jnp.zeros_like(leaf))


def _map_masked(
  fn: Callable[[Any, jax.Array], jax.Array], tree: PyTree, masks: PyTree
) -> PyTree:
  """`fn(leaf, mask)` with masks of the leaves' shapes; others stay."""

  def apply(path, leaf, mask):
    return (
      leaf
      if mask is None
      else fn(leaf, expand(jnp.asarray(mask), jnp.shape(leaf), path))
    )

  leaves = [apply(*row) for row in tree_lib.zip_leaves(tree, masks)]
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def expand(
  values: jax.Array, shape: tuple[int, ...], path: str = ''
) -> jax.Array:
  """Gives each connection the value of its mask variable.

  Args:
    values: One value a mask variable.
    shape: The shape of the weight.
    path: The leaf's path, for the message.

  Returns:
    An array of that shape.

  Raises:
    ValueError: If `values` cannot stand for a weight of this shape.

  Example:
    >>> expand(jnp.array([1.0, 2.0]), (5,))
    Array([1., 1., 1., 2., 2.], dtype=float32)
  """
  if values.shape == shape:
    return values
  runs = _runs(values.shape, shape, path)

  def repeat(values):
    for axis, run in enumerate(runs):
      if values.shape[axis] not in (1, shape[axis]):
        values = jnp.repeat(values, run, axis)
        values = jax.lax.slice_in_dim(values, 0, shape[axis], axis=axis)
    return jnp.broadcast_to(values, shape)

  return _where_it_lies(repeat, values, shape)


def contract(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Sums the values of the connections of each mask variable.

  The transpose of `expand`.

  Args:
    values: One value a connection.
    shape: The shape of the mask variables.

  Returns:
    An array of that shape.

  Example:
    >>> contract(jnp.arange(5.0), (2,))
    Array([3., 7.], dtype=float32)
  """
  if values.shape == shape:
    return values
  runs = _runs(shape, values.shape, '')

  def add_up(values):
    for axis, run in enumerate(runs):
      size, count = values.shape[axis], shape[axis]
      if count == size:
        continue
      if count == 1:
        values = jnp.sum(values, axis, keepdims=True)
        continue
      segments = jnp.arange(size, dtype=jnp.int32) // run
      values = jnp.moveaxis(
        jax.ops.segment_sum(
          jnp.moveaxis(values, axis, 0),
          segments,
          num_segments=count,
          indices_are_sorted=True,
        ),
        0,
        axis,
      )
    return values

  return _where_it_lies(add_up, values, shape)


def variable_sizes(
  shape: tuple[int, ...], weight_shape: tuple[int, ...]
) -> np.ndarray:
  """How many connections each mask variable stands for.

  Args:
    shape: The shape of the mask variables.
    weight_shape: The shape of the weight.

  Returns:
    int32, of that shape or one that broadcasts to it.

  Example:
    >>> variable_sizes((2,), (5,))
    array([3, 2], dtype=int32)
  """
  sizes = np.ones((1,) * len(shape), np.int32)
  for axis, run in enumerate(_runs(shape, weight_shape, '')):
    if run != 1:  # 0 where the axis is empty
      counts = np.bincount(
        np.arange(weight_shape[axis]) // max(run, 1), minlength=shape[axis]
      )
      sizes = sizes * np.expand_dims(
        counts.astype(np.int32),
        [other for other in range(len(shape)) if other != axis],
      )
  return sizes


def host_mask(array: np.ndarray, mask: Any, path: str = '') -> np.ndarray:
  """The mask of an effective weight in full, for what happens outside of JAX.

  Args:
    array: The weight, 0 where it is pruned.
    mask: {0, 1}, of the weight's shape or one that `expand` takes there.
    path: The leaf's path, for the message.

  Returns:
    A NumPy array of the weight's shape.

  Raises:
    ValueError: If the mask does not fit the shape, holds anything but {0, 1},
      or is 0 where the weight is not.

  Example:
    >>> host_mask(np.array([[2, 0], [3, 0]]), np.array([[1, 0]]))
    array([[1, 0],
           [1, 0]], dtype=int32)
  """
  if np.shape(mask) != array.shape:
    mask = expand(jnp.asarray(mask), array.shape, path)
  mask = np.asarray(mask)
  live = mask != 0
  if np.any(mask[live] != 1):
    raise ValueError(f'masks must hold 0 and 1 only; {path!r} holds more.')
  if np.any(array[~live] != 0):
    raise ValueError(
      f'params must be 0 where masks are, but {path!r} is not: give the '
      'effective parameters, scl_jax.apply_masks(params, masks).'
    )
  return mask


def _where_it_lies(
  fn: Callable[[jax.Array], jax.Array],
  values: jax.Array,
  shape: tuple[int, ...],
) -> jax.Array:
  """`fn(values)` of this shape, whose axes stay sharded where they can.

  Along explicitly sharded axes JAX asks where the result of a gather or scatter
  shall lie. It stays sharded where the mesh divides it; so it has the same
  sharding in every step. Otherwise XLA decides.
  """
  sharding = jax.typeof(values).sharding
  if all(names is None for names in sharding.spec):
    return fn(values)

  def keeps(names, size):
    names = (names,) if isinstance(names, str) else names or ()
    return (
      size > 1 and size % math.prod(map(sharding.mesh.shape.get, names)) == 0
    )

  spec = jax.sharding.PartitionSpec(
    *(
      names if keeps(names, size) else None
      for names, size in zip(sharding.spec, shape, strict=True)
    )
  )
  lies = jax.sharding.NamedSharding(sharding.mesh, spec)
  placed: Callable[..., Any] = jax.sharding.auto_axes(fn, out_sharding=lies)
  return placed(values)


def _runs(small, large, path):
  if len(small) == len(large) and all(
    0 < n <= d or n == d or n == 1 for n, d in zip(small, large, strict=True)
  ):
    runs = tuple(-(-d // max(n, 1)) for n, d in zip(small, large, strict=True))
    if all(
      -(-d // run) == n if d else True
      for n, d, run in zip(small, large, runs, strict=True)
    ):
      return runs
  raise ValueError(
    f'masks of shape {small} do not fit the weight {path!r} of shape '
    f'{large}: each axis needs one entry for each connection, or for each '
    'run of equal length.'
  )
