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
"""Which leaves carry connections.

The answer is a tree of Python bools with the structure of `params`: static, so
that a compiled step never depends on it.
"""

from collections.abc import Callable, Sequence
import re
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp

from scl_jax import patterns as path_patterns
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree
Prunable = None | str | Sequence[str] | Callable[[str, Any], bool] | PyTree

_WEIGHT_NAME = re.compile(
  r'(kernel|weight|w|embed|embedding)s?([_\d].*)?', re.I
)
# What quantisation, weight norm and spectral norm keep beside a weight. (`w_g`
# and `w_u` are often the gate and the way up of a block.)
_BESIDE_NAME = re.compile(
  r'.*_(scales?(_inv)?|zero_points?|amax(_history)?|sigma)'
  r'|(kernel|weight)_[gu]',
  re.I,
)
_NORM_NAME = re.compile(
  r'(.*_)?((batch|layer|group|rms|instance)?_?norm|bn|ln)[_\d]*', re.I
)


def default_prunable(path: str, leaf: Any) -> bool:
  """The default rule: weight matrices, kernels and embeddings.

  A leaf is prunable if it is real floating point, has rank >= 2, is named
  like a weight (`kernel`, `weight`, `w`, `embedding`, also plural or with a
  suffix: `w1`, `weight_ih`, but not that of its scale: `kernel_scale`,
  `weight_g`) and is not a normalisation layer's own. In lists and
  tuples the nearest name above counts; where there is no name at all, the
  rank decides.

  Args:
    path: The leaf's path, such as `'Dense_0/kernel'`.
    leaf: The array.

  Returns:
    Whether the leaf carries connections.
  """
  if jnp.ndim(leaf) < 2 or not _is_real(leaf):
    return False
  names = tree_lib.names_of(path)
  if not names:
    return True
  # Of the layer itself: a block that begins with a norm holds other layers too.
  if len(names) > 1 and _NORM_NAME.fullmatch(_snake(names[-2])):
    return False
  is_weight, is_beside = (
    pattern.fullmatch(names[-1]) for pattern in (_WEIGHT_NAME, _BESIDE_NAME)
  )
  return bool(is_weight and not is_beside)


def prunable(params: PyTree, select: Prunable = None) -> PyTree:
  """Which leaves of `params` carry connections.

  Args:
    params: Any pytree of arrays.
    select: `None` for `default_prunable`; one regular expression or several,
      each matched against whole paths (`'Dense_0/kernel'`, `'.*/kernel'`); a
      predicate `(path, leaf) -> bool`; or a tree of bools like `params`.

  Returns:
    A tree of bools with the structure of `params`.

  Raises:
    ValueError: If nothing is selected, a pattern matches no leaf, or a
      selected leaf is no array of real floating-point numbers. The message
      lists the paths there are.

  Example:
    >>> params = {'Dense_0': {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)}}
    >>> prunable(params)
    {'Dense_0': {'bias': False, 'kernel': True}}
  """
  tree_lib.check_arrays(params, 'params')
  if select is None:
    chosen = tree_lib.map_with_path(default_prunable, params)
  elif isinstance(select, str) or _is_strings(select):
    chosen = _match(params, [select] if isinstance(select, str) else select)
  elif callable(select) and not _is_tree(params, select):

    def choose(path, leaf):
      answer = select(path, leaf)
      try:
        return bool(answer)
      except ValueError as error:
        raise ValueError(
          f'prunable must answer True or False, got {answer!r} for {path!r}.'
        ) from error

    chosen = tree_lib.map_with_path(choose, params)
  else:
    chosen = _check_tree(params, select)

  for path, leaf, is_chosen in tree_lib.zip_leaves(params, chosen):
    if is_chosen and not _is_real(leaf):
      raise ValueError(
        f'prunable selects {path!r}, which holds {jnp.result_type(leaf)}: '
        'only real floating-point leaves carry connections.'
      )
  if not any(jax.tree.leaves(chosen)):
    raise ValueError(
      'prunable selects no leaf, so there is nothing to make sparse. Give '
      "patterns of paths, such as prunable=['.*/kernel'], or a predicate "
      f'(path, leaf) -> bool. The paths are:\n{_paths(params)}'
    )
  return chosen


def prunable_leaves(params: PyTree, select: Prunable = None) -> PyTree:
  """The leaves of `params` that carry connections.

  Args:
    params: Any pytree of arrays.
    select: As for `prunable`.

  Returns:
    A tree like `params`, with `None` at leaves that are not prunable.

  Raises:
    ValueError: As `prunable` does.

  Example:
    >>> prunable_leaves({'w': jnp.ones((1, 2)), 'b': jnp.ones(2)})
    {'b': None, 'w': Array([[1., 1.]], dtype=float32)}
  """
  return jax.tree.map(
    lambda leaf, chosen: leaf if chosen else None,
    params,
    prunable(params, select),
  )


def _match(params: PyTree, patterns: Sequence[str]) -> PyTree:
  path_patterns.check_patterns('prunable', patterns)
  for pattern in patterns:
    if not any(re.fullmatch(pattern, path) for path in tree_lib.paths(params)):
      raise ValueError(
        f'prunable pattern {pattern!r} matches no leaf; it is a regular '
        f'expression for the whole path. The paths are:\n{_paths(params)}'
      )
  return tree_lib.map_with_path(
    lambda path, _: any(re.fullmatch(p, path) is not None for p in patterns),
    params,
  )


def _is_tree(params: PyTree, select: Any) -> bool:
  """Whether it is a tree that happens to be callable, an Equinox module."""
  leaves = jax.tree.leaves(select)
  if leaves and all(isinstance(leaf, bool) for leaf in leaves):
    return True
  structure = jax.tree.structure(select)
  is_leaf = jax.tree_util.treedef_is_leaf(structure)
  return not is_leaf and structure == jax.tree.structure(params)


def _check_tree(params: PyTree, select: PyTree) -> PyTree:
  if jax.tree.structure(params) != jax.tree.structure(select) or not all(
    isinstance(leaf, bool) for leaf in jax.tree.leaves(select)
  ):
    raise ValueError(
      'prunable must be None, patterns of paths, a predicate '
      '(path, leaf) -> bool, or a tree of bools with the structure of '
      f'params; got {select!r}.'
    )
  return select


def _is_strings(select: Any) -> TypeGuard[Sequence[str]]:
  return (
    isinstance(select, Sequence)
    and len(select) > 0
    and all(isinstance(pattern, str) for pattern in select)
  )


def _is_real(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _snake(name: str) -> str:
  """`BatchNorm_0` → `Batch_Norm_0`, so that one pattern serves all styles."""
  return re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name)


def _paths(params: PyTree) -> str:
  return tree_lib.listing(
    [f'{path}  {jnp.shape(leaf)}' for path, leaf in tree_lib.zip_leaves(params)]
  )
