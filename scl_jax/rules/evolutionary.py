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
"""SET: connections that move at random."""

import jax

from scl_jax import checks
from scl_jax import distributions
from scl_jax import rewiring
from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.prunable import Prunable

PyTree = tree_lib.PyTree


def sparse_evolutionary_training(
  target_density: float,
  *,
  key: jax.Array,
  end_step: int,
  update_every: int = 100,
  initial_fraction: float = 0.3,
  allocation: distributions.Layerwise = 'erdos_renyi',
  prunable: Prunable = None,
) -> MaskRule:
  """Sparse evolutionary training (Mocanu et al., arXiv 1707.04780).

  Starts from random masks. Every `update_every` steps each layer drops the live
  connections with the smallest |w| and grows as many at random. A connection
  that grows starts from zero, with the moments of a fresh optimizer state. The
  share that moves falls as a cosine, RigL's version of SET (arXiv 1911.11134,
  section 3); in SET it is constant, and changes come once an epoch.

  Args:
    target_density: The density, in (0, 1]; it never changes.
    key: A key of `jax.random`, for what is random. Masks do not
      depend on how the weights are sharded.
    end_step: The step from which on masks are fixed. Three quarters of the run
      is the choice of RigL.
    update_every: How many steps lie between two changes.
    initial_fraction: The share of a layer's live connections that the first
      change would move; it falls to 0 at `end_step` as a cosine.
    allocation: How connections are given to the layers at `init`, see
      `scl_jax.layer_budgets`; each layer keeps its number.
    prunable: Which leaves carry connections, see `scl_jax.prunable`.

  Returns:
    A `MaskRule` for `scl_jax.sparsify`.

  Raises:
    ValueError: If an argument is out of its range.

  Example:
    >>> rule = sparse_evolutionary_training(
    ...     0.1, key=jax.random.key(0), end_step=3000
    ... )
    >>> tx = scl_jax.sparsify(optax.adam(3e-3), rule)
  """
  checks.check_key('key', key)

  def grow_scores(grads, state, weights):
    del grads
    return thresholding.random_scores(
      tree_lib.keep_where(weights, state.masks),
      jax.random.fold_in(key, state.count),
    )

  return rewiring.make_rule(
    grow_scores,
    target_density,
    start_key=jax.random.fold_in(key, 0),
    end_step=end_step,
    update_every=update_every,
    initial_fraction=initial_fraction,
    allocation=allocation,
    prunable=prunable,
  )
