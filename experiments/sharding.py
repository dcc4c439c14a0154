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

"""Training on several devices: a mesh, and where each array lies on it.

The mesh has three axes, and `config.mesh` their sizes:

    data     each of its devices sees other examples
    fsdp     the same, and weights are cut along it
    tensor   weights are cut along it, and every device sees all its examples

`config.param_axes` says for each leaf of params which of its axes are cut along
which axes of the mesh; what `sparsify` holds of a leaf is cut as the leaf is.
XLA does the rest. Axis types are JAX's: with `'explicit'` the sharding is part
of the type of the whole state, and a step that would move a weight does not
compile; only the model's own computation is left to XLA.
"""

from collections.abc import Callable, Sequence
import contextlib
import math
import re
from typing import Any

import jax
import ml_collections
import numpy as np

from scl_jax import patterns
from scl_jax import tree as tree_lib

PyTree = Any
P = jax.sharding.PartitionSpec

AXES = ('data', 'fsdp', 'tensor')
_EXAMPLES = ('data', 'fsdp')  # what a batch is cut along
_TYPES = {
  'auto': jax.sharding.AxisType.Auto,
  'explicit': jax.sharding.AxisType.Explicit,
}


def make_mesh(config: ml_collections.ConfigDict) -> jax.sharding.Mesh | None:
  """The mesh of a config.

  Args:
    config: `mesh` has the sizes of the axes, one of which may be -1, for what
      is left of the devices; `axis_types` is `'auto'` or `'explicit'`.

  Returns:
    A mesh of the first devices; `None` for one device.

  Raises:
    ValueError: If the sizes fit neither the devices nor the batch, or leave
      out devices of a job of several processes.
  """
  sizes, count = dict(config.mesh), jax.device_count()
  if set(sizes) != set(AXES) or any(
    not isinstance(n, int) or n == 0 or n < -1 for n in sizes.values()
  ):
    raise ValueError(
      f'config.mesh must give the axes {AXES} whole numbers >= 1, or -1 for '
      f'what is left of the devices; got {sizes}.'
    )
  if config.axis_types not in _TYPES:
    raise ValueError(
      f"config.axis_types must be 'auto' or 'explicit', got "
      f'{config.axis_types!r}.'
    )
  left = [axis for axis in AXES if sizes[axis] == -1]
  known = math.prod(n for n in sizes.values() if n != -1)
  if len(left) == 1 and count % known == 0:
    sizes[left[0]] = count // known
  elif left or known > count:
    raise ValueError(
      f'config.mesh does not fit the {count} devices there are: {sizes}.'
    )
  shape = tuple(sizes[axis] for axis in AXES)
  if jax.process_count() > 1 and math.prod(shape) < count:
    raise ValueError(
      f'config.mesh must take all {count} devices of the '
      f'{jax.process_count()} processes, with a -1 for example; got {sizes}.'
    )
  part = config.batch_size // max(1, config.accumulation_steps)
  if part % (shape[0] * shape[1]):
    raise ValueError(
      'config.batch_size / config.accumulation_steps must be divisible by the '
      f'mesh axes data and fsdp together, {shape[0] * shape[1]}; got {part}.'
    )
  if math.prod(shape) == 1:
    return None
  return jax.make_mesh(shape, AXES, axis_types=(_TYPES[config.axis_types],) * 3)


def param_shardings(
  params: PyTree,
  param_axes: Sequence[tuple[str, Sequence[str | None]]],
  mesh: jax.sharding.Mesh,
) -> PyTree:
  """Where params lie.

  Args:
    params: A tree of arrays, or of what has a shape.
    param_axes: Pairs of a regular expression for whole paths and, for each of
      the last axes of such a leaf, an axis of the mesh or `None`; the first
      match wins, and each leaf needs one. `()` is a copy on every device.
    mesh: The mesh.

  Returns:
    A tree like `params` of `jax.sharding.NamedSharding`.

  Raises:
    ValueError: If a leaf has no pattern or a pattern no leaf, or the axes of
      one do not fit.

  Example:
    >>> mesh = jax.make_mesh((1, 1, 1), AXES)
    >>> params = {'kernel': jax.ShapeDtypeStruct((3, 3, 8, 16), 'float32')}
    >>> pairs = [('.*kernel', ('fsdp', 'tensor'))]
    >>> param_shardings(params, pairs, mesh)['kernel'].spec
    PartitionSpec(None, None, 'fsdp', 'tensor')
  """
  paths = tree_lib.paths(params)
  if any(isinstance(pair, str) or len(pair) != 2 for pair in param_axes):
    raise ValueError(
      'config.param_axes must hold pairs of a pattern and axes, such as '
      f"(('.*kernel', ('fsdp', None)), ('.*', ())); got {param_axes}."
    )
  patterns.check_patterns('config.param_axes', (key for key, _ in param_axes))
  for pattern, _ in param_axes:
    if not any(re.fullmatch(pattern, path) for path in paths):
      raise ValueError(
        f'config.param_axes pattern {pattern!r} matches no leaf; it is a '
        'regular expression for the whole path. The paths are:\n'
        f'{tree_lib.listing(paths)}'
      )

  def sharding(path, leaf):
    axes = next((a for key, a in param_axes if re.fullmatch(key, path)), None)
    if axes is None:
      raise ValueError(
        f'config.param_axes must cover every leaf, but no pattern matches '
        f"{path!r}; a last pair ('.*', ()) copies what is left."
      )
    spec = (None,) * (len(leaf.shape) - len(axes)) + tuple(axes)
    named = [axis for axis in axes if axis is not None]
    if (
      len(spec) != len(leaf.shape)
      or len(set(named)) < len(named)
      or not set(named) <= set(AXES)
      or any(
        axis is not None and size % mesh.shape[axis]
        for axis, size in zip(spec, leaf.shape, strict=True)
      )
    ):
      raise ValueError(
        f'config.param_axes {tuple(axes)} do not fit {path!r} of shape '
        f'{leaf.shape}: they must be axes of the mesh {dict(mesh.shape)}, each '
        'once, that divide the last axes of the leaf.'
      )
    return jax.sharding.NamedSharding(mesh, P(*spec))

  return tree_lib.map_with_path(sharding, params)


def state_shardings(
  state: PyTree, params: PyTree, shardings: PyTree, mesh: jax.sharding.Mesh
) -> PyTree:
  """Where a training state lies, from where params lie.

  What belongs to a leaf of params has its path at the end of its own: weights,
  mask variables, masks, moments, the norms of its features. It is cut as the
  leaf is, but along axes that are shorter (one norm a feature, one variable a
  block) only where the mesh divides them. The rest (λ, counts, budgets) is
  small and copied.

  Args:
    state: A tree of arrays, or of what has a shape.
    params: The params.
    shardings: Theirs, from `param_shardings`.
    mesh: The mesh.

  Returns:
    A tree like `state` of `jax.sharding.NamedSharding`.
  """
  rows = [
    (len(leaf.shape), sharding.spec)
    for _, leaf, sharding in tree_lib.zip_leaves(params, shardings)
  ]

  def sharding(owner, leaf):
    rank, spec = (-1, P()) if owner is None else rows[owner]
    # A factored moment has fewer axes.
    if rank != len(leaf.shape):
      spec = P()
    return jax.sharding.NamedSharding(mesh, P(*map(_kept, spec, leaf.shape)))

  def _kept(axis, size):
    fits = axis is not None and size > 1 and size % mesh.shape[axis] == 0
    return axis if fits else None

  leaves, treedef = jax.tree.flatten(state)
  return treedef.unflatten(
    map(sharding, tree_lib.owners(state, params), leaves)
  )


def replicate(tree: PyTree, mesh: jax.sharding.Mesh | None) -> PyTree:
  """A copy on every device."""
  if mesh is None:
    return tree
  return jax.device_put(tree, jax.sharding.NamedSharding(mesh, P()))


def without_types(tree: PyTree) -> PyTree:
  """The same arrays, where they lie, without explicit types.

  For what is computed after training, which is left to XLA.
  """

  def plain(leaf):
    sharding = getattr(leaf, 'sharding', None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
      return leaf
    if _TYPES['explicit'] not in sharding.mesh.axis_types:
      return leaf
    devices: Any = sharding.mesh.devices
    mesh = jax.sharding.Mesh(devices, sharding.mesh.axis_names)
    return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, sharding.spec))

  return jax.tree.map(plain, tree)


def places(mesh: jax.sharding.Mesh | None, size: int) -> np.ndarray:
  """Which places of a batch the devices of this process take.

  Args:
    mesh: The mesh, or `None`.
    size: The size of the batch.

  Returns:
    Ascending int64; all places where there is one process.
  """
  everything = np.arange(size)
  if mesh is None:
    return everything
  sharding = examples_sharding(mesh)
  parts = sharding.addressable_devices_indices_map((size,)).values()
  return np.unique(np.concatenate([everything[part] for part in parts]))


def join_parts(
  part: PyTree, mesh: jax.sharding.Mesh | None, size: int
) -> PyTree:
  """Makes the parts of a batch that each process has one batch.

  Args:
    part: NumPy arrays, the examples at `places` of this process.
    mesh: The mesh, or `None`.
    size: The size of the batch.

  Returns:
    Arrays of the whole batch, cut along the mesh.
  """
  if mesh is None:
    return part
  sharding = examples_sharding(mesh)
  join = lambda x: jax.make_array_from_process_local_data(
    sharding, x, (size, *x.shape[1:])
  )
  return jax.tree.map(join, part)


def mesh_of(tree: PyTree) -> jax.sharding.Mesh | None:
  """The mesh on which arrays lie, or `None`."""
  for leaf in jax.tree.leaves(tree):
    mesh = getattr(getattr(leaf, 'sharding', None), 'mesh', None)
    if isinstance(mesh, jax.sharding.Mesh):
      return mesh
  return None


def examples_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Where the examples of a batch lie."""
  return jax.sharding.NamedSharding(mesh, P(_EXAMPLES))


def examples_axis(mesh: jax.sharding.Mesh) -> int:
  """In how many parts a batch is cut."""
  return math.prod(mesh.shape[axis] for axis in _EXAMPLES)


def cut_batch(batch: PyTree, mesh: jax.sharding.Mesh | None) -> PyTree:
  """Gives each device its examples; within the compiled step."""
  if mesh is None:
    return batch
  cut = lambda x: jax.lax.with_sharding_constraint(x, P(_EXAMPLES))
  return jax.tree.map(cut, batch)


def left_to_xla(
  gradient: Callable[..., Any], mesh: jax.sharding.Mesh | None
) -> Callable[..., Any]:
  """A gradient within which XLA chooses the shardings; for explicit types.

  Args:
    gradient: `(params, *others) -> (value, gradients like params)`.
    mesh: The mesh, or `None`.

  Returns:
    A function like it, whose gradients lie as params do.
  """
  if mesh is None or _TYPES['explicit'] not in mesh.axis_types:
    return gradient

  def typed(params, *others):
    copied = jax.sharding.NamedSharding(mesh.abstract_mesh, P())
    like = jax.tree.map(lambda p: jax.typeof(p).sharding, params)
    return jax.sharding.auto_axes(gradient, out_sharding=(copied, like))(
      params, *others
    )

  return typed


def init_state(
  make_state: Callable[..., Any],
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh | None,
) -> tuple[Any, Any]:
  """Makes a training state where it shall lie: no device ever holds it all.

  Args:
    make_state: Makes the state, with an attribute `params`.
    config: `param_axes`, see `param_shardings`.
    mesh: The mesh, or `None` for one device.

  Returns:
    The state and its shardings, `None` for one device.

  Raises:
    ValueError: If `config.param_axes` does not fit.
  """
  if mesh is None:
    return make_state(), None
  with use(mesh):
    shapes = jax.eval_shape(make_state)
    shardings = state_shardings(
      shapes,
      shapes.params,
      param_shardings(shapes.params, config.param_axes, mesh),
      mesh,
    )
    return jax.jit(make_state, out_shardings=shardings)(), shardings


def use(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
  """The context in which steps are compiled and run."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)
