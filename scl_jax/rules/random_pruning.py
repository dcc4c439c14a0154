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
"""Random pruning at the start: the control of every comparison."""

from typing import NamedTuple

import jax
from jax.typing import ArrayLike

from scl_jax import checks
from scl_jax import distributions
from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.prunable import Prunable
from scl_jax.prunable import prunable_leaves

PyTree = tree_lib.PyTree


class RandomPruningState(NamedTuple):
  """State of the rule `random_pruning`.

  Attributes:
    masks: bool; `None` at leaves that are not prunable.
  """

  masks: PyTree


def random_pruning(
  target_density: ArrayLike,
  *,
  key: jax.Array,
  allocation: distributions.Allocation = 'erdos_renyi',
  prunable: Prunable = None,
) -> MaskRule:
  """Random connections, chosen at `init` and fixed from then on.

  Args:
    target_density: The density, in (0, 1]; it may be traced where the
      allocation is `'global'`.
    key: A key of `jax.random`. The masks do not depend on how the weights are
      sharded.
    allocation: `'erdos_renyi'` or `'uniform'` give each layer its number of
      connections, see `scl_jax.layer_budgets`; `'global'` draws over all, which
      may leave a small layer none.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range.

  Example:
    >>> rule = random_pruning(0.1, key=jax.random.key(0))
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), rule)
  """
  checks.check_key('key', key)
  checks.check_density('target_density', target_density)
  checks.check_choice('allocation', allocation, distributions.ALLOCATIONS)

  def init_fn(weights):
    connections = prunable_leaves(weights, prunable)
    budget = distributions.budgets(connections, target_density, allocation)
    return RandomPruningState(
      thresholding.random_masks(connections, budget, key)
    )

  def update_fn(grads, state, weights):
    del grads, weights
    return state

  return MaskRule(init_fn, update_fn)
