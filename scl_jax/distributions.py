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
"""How many connections each layer keeps at a given density of the network.

Uniform: every layer has the density of the network. Erdős–Rényi-kernel (RigL,
arXiv 1911.11134, section 3 and appendix; for matrices the Erdős–Rényi rule of
SET): the density of a layer of shape (d_1, ..., d_k) is

    ε (d_1 + ... + d_k) / (d_1 ... d_k)

so that large layers are sparser. ε makes the total right. Where that would be
above 1 the layer is dense, and ε is found again for the others.
"""

from typing import Any, Literal, get_args

import jax
from jax import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import checks
from scl_jax import tree as tree_lib
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree
Layerwise = Literal['uniform', 'erdos_renyi']
Allocation = Literal['global', 'uniform', 'erdos_renyi']
_MOST = 2**31 - 1
LAYERWISE: tuple[str, ...] = get_args(Layerwise)
ALLOCATIONS: tuple[str, ...] = get_args(Allocation)


def layer_densities(
  weights: PyTree,
  target_density: float,
  allocation: Layerwise = 'erdos_renyi',
  *,
  prunable: Prunable = None,
) -> PyTree:
  """The density of each layer.

  Args:
    weights: Any pytree of arrays; shapes are read only.
    target_density: The density over all prunable leaves, in (0, 1].
    allocation: `'uniform'` or `'erdos_renyi'`, see the module.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A tree like `weights` of Python floats in [0, 1], `None` at leaves that are
    not prunable.

  Raises:
    ValueError: If an argument is out of its range, or nothing is prunable.

  Example:
    >>> weights = {'w1': jnp.ones((100, 10)), 'w2': jnp.ones((10, 2))}
    >>> layer_densities(weights, 0.1, 'uniform')
    {'w1': 0.1, 'w2': 0.1}
  """
  connections = prunable_leaves(weights, prunable)
  leaves, treedef = jax.tree.flatten(connections)
  shapes = [jnp.shape(leaf) for leaf in leaves]
  densities = _densities(shapes, _check_density(target_density), allocation)
  return jax.tree.unflatten(treedef, densities)


def layer_budgets(
  weights: PyTree,
  target_density: float,
  allocation: Layerwise = 'erdos_renyi',
  *,
  prunable: Prunable = None,
) -> PyTree:
  """The number of connections of each layer; their sum is exact.

  The densities of `layer_densities`, rounded down, and one more where the
  remainder is largest, until the total is the target times all connections,
  rounded. A layer that would get none gets one of the largest, as a network
  with a layer of no connection is constant, and rules that keep a layer's
  number would never leave that state. Only where the total is less than the
  number of layers some stay without.

  Args:
    weights: Any pytree of arrays; shapes are read only.
    target_density: The density over all prunable leaves, in (0, 1].
    allocation: `'uniform'` or `'erdos_renyi'`, see the module.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A tree like `weights` of Python ints, `None` at leaves that are not
    prunable.

  Raises:
    ValueError: If an argument is out of its range, or nothing is prunable.

  Example:
    >>> weights = {'w1': jnp.ones((100, 10)), 'w2': jnp.ones((10, 2))}
    >>> layer_budgets(weights, 0.1, 'uniform')
    {'w1': 100, 'w2': 2}
  """
  densities, treedef = jax.tree.flatten(
    layer_densities(weights, target_density, allocation, prunable=prunable)
  )
  leaves = jax.tree.leaves(prunable_leaves(weights, prunable))
  sizes = np.array([np.prod(jnp.shape(leaf)) for leaf in leaves])
  exact = np.array(densities) * sizes
  # A whole number may come out just below itself.
  counts = np.minimum(np.floor(exact + 1e-6), sizes).astype(int)
  missing = number_at(target_density, int(sizes.sum())) - counts.sum()
  order = np.argsort(counts - exact, kind='stable')
  for index in order[counts[order] < sizes[order]][: max(missing, 0)]:
    counts[index] += 1
  for index in np.argsort(-exact, kind='stable'):
    largest = counts.argmax()
    if counts[index] == 0 < sizes[index] and counts[largest] > 1:
      counts[[index, largest]] += 1, -1
  return jax.tree.unflatten(treedef, counts.tolist())


def budgets(
  connections: PyTree, target_density: ArrayLike, allocation: Allocation
) -> PyTree:
  """What a rule hands to `thresholding.keep_highest`.

  Args:
    connections: The prunable leaves, `None` elsewhere.
    target_density: The density over them, in (0, 1]; it may be traced where
      the allocation is `'global'`.
    allocation: `'global'`, or one of `layer_budgets`.

  Returns:
    int32: a scalar for all leaves, or a tree of scalars for each.

  Raises:
    ValueError: If an argument is out of its range, or nothing would be left.
  """
  total = sum(leaf.size for leaf in jax.tree.leaves(connections))
  if not isinstance(target_density, core.Tracer):
    budget = number_at(_check_density(target_density), total)
    check_reachable(target_density, budget, total)
    if allocation == 'global':
      check_countable(target_density, budget, connections)
    else:
      check_countable(target_density, 0, connections)
  if allocation != 'global':
    if isinstance(target_density, core.Tracer):
      raise ValueError(
        f'target_density is traced, but allocation={allocation!r} rounds it '
        "for each layer outside of jit. Use allocation='global', or build one "
        'state for each density and stack them.'
      )
    counts = layer_budgets(
      connections,
      float(np.asarray(target_density)),
      allocation,
      prunable=lambda path, leaf: True,
    )
    return jax.tree.map(lambda n: jnp.asarray(n, jnp.int32), counts)
  return jnp.asarray(number_at(target_density, total), jnp.int32)


def number_at(density: ArrayLike, total: int) -> ArrayLike:
  """The number of connections at a density, rounded.

  Args:
    density: In (0, 1]; it may be traced.
    total: All connections.

  Returns:
    An int of Python, or int32 where the density is traced.
  """
  if isinstance(density, core.Tracer):
    return jnp.round(float(total) * density).astype(jnp.int32)
  # Not in float32, which would be off by connections where there are many.
  return round(total * float(np.asarray(density)))


def check_countable(
  density: ArrayLike, budget: ArrayLike, connections: PyTree
) -> None:
  """Raises where int32 is too small; a traced budget is taken on trust.

  Args:
    density: The target density, for the message.
    budget: How many connections are to be kept in all, or a tracer.
    connections: The prunable leaves.

  Raises:
    ValueError: If the budget or the size of a leaf is beyond 2^31 - 1.
  """
  if isinstance(budget, int) and budget > _MOST:
    raise ValueError(
      f'target_density={density} would keep {budget} connections, but counts '
      f'are int32: beyond {_MOST} connections to keep, scl needs '
      'target_density as a mapping with a density for each leaf, and other '
      "rules allocation='uniform' or 'erdos_renyi'."
    )
  for path, leaf in tree_lib.zip_leaves(connections):
    if leaf.size > _MOST:
      raise ValueError(
        f'target_density={density} counts the {leaf.size} connections of the '
        f'leaf {path!r} in int32, so no prunable leaf may have more than '
        f'{_MOST}, stacked layers included. Cut the leaf, leave it dense with '
        'prunable=, or train scl with a penalty.'
      )


def check_reachable(
  density: ArrayLike,
  budget: ArrayLike,
  total: int,
  *,
  smallest: int = 1,
  where: str = 'all layers',
) -> None:
  """Raises if a density leaves less than can be kept; traced is allowed.

  Args:
    density: The target density, for the message.
    budget: The number of connections that it leaves, of `number_at`.
    total: All connections; of none all are kept.
    smallest: The least number that can be kept.
    where: What the density is of, for the message.

  Raises:
    ValueError: If the budget is below the smallest.
  """
  if total and isinstance(budget, int) and budget < smallest:
    raise ValueError(
      f'target_density={density} cannot be reached in {where}: it leaves '
      f'{budget} of {total} connections, and the least that can be kept is '
      f'{smallest}, a density of {smallest / total:.4g}.'
    )


def _densities(
  shapes: list[tuple[int, ...]], target: float, allocation: str
) -> list[float]:
  checks.check_choice('allocation', allocation, LAYERWISE)
  if allocation == 'uniform':
    return [target] * len(shapes)
  sizes = np.array([np.prod(shape) for shape in shapes], np.float64)
  ratios = np.array([max(sum(shape), 1) for shape in shapes]) / np.maximum(
    sizes, 1
  )
  dense = sizes == 0
  while not dense.all():
    rest = target * sizes.sum() - sizes[dense].sum()
    scale = rest / (sizes * ratios)[~dense].sum()
    above = ~dense & (scale * ratios > 1)
    if not above.any():
      return np.where(dense, 1.0, scale * ratios).tolist()
    dense |= above
  return [1.0] * len(shapes)


def _check_density(target_density: Any) -> float:
  checks.check_density('target_density', target_density)
  return float(np.asarray(target_density))
