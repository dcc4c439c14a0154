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
"""Trees of parameters: paths, maps that know paths, and `None` holes.

A tree that describes only some leaves of `params` (masks, mask variables) has
the structure of `params` with `None` at the other leaves. `jax.tree.map` sees
such a hole as an empty subtree, so `params` must always be its first tree:
`jax.tree.map(lambda p, m: p if m is None else p * m, params, masks)`.
"""

import collections
from collections.abc import Callable, Sequence
import re
from typing import Any

import jax
from jax import core
import jax.numpy as jnp

PyTree = Any

_VALUE = jax.tree_util.GetAttrKey('value')


def leaf_names(tree: PyTree) -> list[tuple[str, ...]]:
  """The names along the path of each leaf, in the order of `jax.tree.leaves`.

  The `.value` with which Flax NNX ends the path of a variable is left out, so
  that one model has the same paths in Linen and in NNX. A variable holds
  nothing else: a field `value` beside other fields keeps its name.

  Args:
    tree: Any pytree; `None` is no leaf.

  Returns:
    A list of tuples of strings.

  Example:
    >>> leaf_names({'Dense_0': {'kernel': 1.0, 'bias': None}})
    [('Dense_0', 'kernel')]
  """
  return [
    tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)
    for keys in _leaf_keys(tree)
  ]


def _leaf_keys(tree: PyTree) -> list[tuple[Any, ...]]:
  """The keys along the path of each leaf, without the `.value` of NNX."""
  # Holes count, so that masks have the paths of their params.
  rows, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda leaf: leaf is None
  )
  fields = collections.defaultdict(set)
  if any(keys and keys[-1] == _VALUE for keys, _ in rows):
    for keys, _ in rows:
      for depth, key in enumerate(keys):
        fields[keys[:depth]].add(key)

  def is_variable(keys):
    return len(keys) > 1 and keys[-1] == _VALUE and len(fields[keys[:-1]]) == 1

  return [
    keys[:-1] if is_variable(keys) else keys
    for keys, leaf in rows
    if leaf is not None
  ]


def paths(tree: PyTree) -> list[str]:
  """The path of each leaf as one string, in the order of `jax.tree.leaves`.

  Args:
    tree: Any pytree; `None` is no leaf.

  Returns:
    A list of strings; the root's is `''`.

  Example:
    >>> paths({'Dense_0': {'kernel': 1.0, 'bias': None}})
    ['Dense_0/kernel']
  """
  return ['/'.join(names) for names in leaf_names(tree)]


def names_of(path: str) -> list[str]:
  """The names in a path that say what a leaf is: not indices.

  Those of a PyTorch `state_dict` have dots between them. Haiku's module names
  hold slashes of their own, which does no harm.

  Args:
    path: One of `paths`.

  Returns:
    The names; the leaf's own is the last.

  Example:
    >>> names_of('encoder.layers.0/weight')
    ['encoder', 'layers', 'weight']
  """
  names = re.split('[/.]', path)
  return [name for name in names if name and not name.isdigit()]


def owners(state: PyTree, params: PyTree) -> list[int | None]:
  """Which leaf of params each leaf of a training state is kept for.

  What is kept of a leaf (weight, mask variable, moment, norm) has the leaf's
  path at the end of its own: in all optimizers, of whole trees as of parts
  (`optax.partition`). Where several paths are, as when a weight lies under a
  name that a state has too (`mu`), it is the one whose tree is kept there: the
  other paths of params stand beside it.

  Args:
    state: Any pytree.
    params: Any pytree.

  Returns:
    For each leaf of `state`, its owner's place in `jax.tree.leaves(params)`;
    `None` where it has none.

  Example:
    >>> params = {'w': 1.0, 'b': 2.0}
    >>> owners({'count': 3, 'mu': params}, params)
    [None, 0, 1]
  """
  index_of = {keys: index for index, keys in enumerate(_leaf_keys(params))}
  rows = _leaf_keys(state)
  kept = set(rows)

  def owner(keys):
    ends = [keys[at:] for at in range(len(keys) + 1) if keys[at:] in index_of]
    if len(ends) < 2:
      return index_of[ends[0]] if ends else None
    best = max(ends, key=lambda end: beside(keys[: len(keys) - len(end)]))
    return index_of[best]

  def beside(root):
    return sum(root + keys in kept for keys in index_of)

  return [owner(keys) for keys in rows]


def map_with_path(
  fn: Callable[..., Any], tree: PyTree, *rest: PyTree
) -> PyTree:
  """`jax.tree.map` whose function also gets the path, as a string.

  Args:
    fn: Called as `fn(path, leaf, *leaves_of_rest)`; may return `None`.
    tree: The tree that gives the structure.
    *rest: Trees that have the structure of `tree`, perhaps with `None` holes.

  Returns:
    A tree of the results.
  """
  leaves, treedef = jax.tree.flatten(tree)
  columns = [treedef.flatten_up_to(other) for other in rest]
  rows = zip(paths(tree), leaves, *columns, strict=True)
  return treedef.unflatten([fn(*row) for row in rows])


def keep_where(tree: PyTree, other: PyTree) -> PyTree:
  """The leaves of `tree` where `other` has one too, `None` elsewhere.

  Args:
    tree: Any pytree.
    other: A tree like it, perhaps with `None` holes.

  Returns:
    A tree with the structure of `other`.

  Example:
    >>> keep_where({'w': 1, 'b': 2}, {'w': 3, 'b': None})
    {'b': None, 'w': 1}
  """
  return jax.tree.map(
    lambda leaf, mark: None if mark is None else leaf, tree, other
  )


def unshared(tree: PyTree, other: PyTree) -> PyTree:
  """A tree of arrays of its own, so that it and another one can be donated.

  Args:
    tree: Any pytree.
    other: Any other.

  Returns:
    `tree`, with copies of the arrays that are leaves of `other` too, or of
    `tree` a second time. What is traced stays, as a compiled function gives
    each result its own buffer.
  """
  taken = {id(leaf) for leaf in jax.tree.leaves(other)}

  def own(leaf):
    if not isinstance(leaf, jax.Array) or isinstance(leaf, core.Tracer):
      return leaf
    is_taken = id(leaf) in taken
    taken.add(id(leaf))
    return jnp.copy(leaf) if is_taken else leaf

  return jax.tree.map(own, tree)


def zip_leaves(tree: PyTree, *rest: PyTree) -> list[tuple[Any, ...]]:
  """`(path, leaf, *leaves_of_rest)` for each leaf of `tree`.

  Leaves belong together by their paths, whatever the containers: masks from an
  optimizer's state, where NNX has variables of another type, or masks restored
  as plain dicts fit params all the same.

  Args:
    tree: The tree that gives the leaves.
    *rest: Trees that may lack some of them; the leaf is then `None`.

  Returns:
    A list of tuples in the order of `jax.tree.leaves(tree)`.

  Raises:
    ValueError: If one of `rest` has a leaf that `tree` has not, or two leaves
      have the same path.
  """
  rows = list(zip(paths(tree), jax.tree.leaves(tree), strict=True))
  known = {path for path, _ in rows}
  if len(known) < len(rows):
    twice = [
      path
      for path, n in collections.Counter(p for p, _ in rows).items()
      if n > 1
    ]
    raise ValueError(f'Several leaves have the same path:\n{listing(twice)}')
  columns = []
  for other in rest:
    column = dict(zip(paths(other), jax.tree.leaves(other), strict=True))
    unknown = [path for path in column if path not in known]
    if unknown:
      raise ValueError(
        'The trees do not fit: one has leaves that the other has not:\n'
        f'{listing(unknown)}\nThe other has:\n{listing(sorted(known))}'
      )
    columns.append(column)
  return [
    (path, leaf, *(column.get(path) for column in columns))
    for path, leaf in rows
  ]


def listing(names: Sequence[str], most: int = 30) -> str:
  """The names for an error message, one a line, cut after `most`."""
  lines = [f'  {name!r}' for name in names[:most]] or ['  (none)']
  if len(names) > most:
    lines.append(f'  ... and {len(names) - most} more')
  return '\n'.join(lines)


def is_weight(leaf: Any) -> bool:
  """Whether a leaf is a floating-point or complex number or array."""
  return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def check_arrays(tree: PyTree, name: str) -> None:
  """Raises unless every leaf is a number or an array of numbers.

  Args:
    tree: The tree to look at; `None` is no leaf.
    name: What the caller calls it, for the message.

  Raises:
    ValueError: Naming the first leaf that is something else.
  """
  for path, leaf in zip_leaves(tree):
    if isinstance(leaf, (bool, int, float, complex)):
      continue
    dtype = getattr(leaf, 'dtype', None)
    if (
      hasattr(leaf, 'shape')
      and dtype is not None
      and (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_)
    ):
      continue
    kind = type(leaf).__name__ if dtype is None else f'array of {dtype}'
    raise ValueError(
      f'{name} must hold arrays of numbers, but its leaf {path!r} is a '
      f'{kind}. Keep what is not trained out of the tree: for Equinox '
      'eqx.filter(model, eqx.is_inexact_array), for Flax NNX '
      'nnx.state(model, nnx.Param).'
    )


def check_same_structure(
  tree: PyTree, other: PyTree, name: str, other_name: str
) -> None:
  """Raises unless `other` fits `tree`: the same structure, the same shapes.

  Shapes are compared at floating-point leaves only.

  Args:
    tree: The tree that gives structure and shapes.
    other: The tree that should fit.
    name: What the caller calls `tree`.
    other_name: What the caller calls `other`.

  Raises:
    ValueError: Naming the leaves that do not fit.
  """
  try:
    rows = zip_leaves(tree, other)
  except ValueError as error:
    raise ValueError(f'{other_name} must fit {name}. {error}') from error
  for path, leaf, other_leaf in rows:
    if is_weight(leaf) and (
      other_leaf is None or jnp.shape(leaf) != jnp.shape(other_leaf)
    ):
      shape = 'missing' if other_leaf is None else jnp.shape(other_leaf)
      raise ValueError(
        f'{other_name} must fit {name}: the leaf {path!r} is {shape} in '
        f'{other_name} and {jnp.shape(leaf)} in {name}.'
      )
