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
"""Back to earlier weights under the present masks, for lottery tickets.

A helper of the training loop: no rule knows of it.
"""

import inspect
from typing import TypeVar

import jax
import optax

from scl_jax import checks
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib
from scl_jax.state import SparsifyState
from scl_jax.state import get_masks
from scl_jax.state import get_sparsify_state

PyTree = tree_lib.PyTree
Params = TypeVar('Params')


def rewind(
  optimizer: optax.GradientTransformation,
  opt_state: optax.OptState,
  params: Params,
) -> tuple[Params, optax.OptState]:
  """Goes back to earlier params, but keeps the masks and the rule's state.

  Rewinding of arXiv 1903.01611: train, prune, go back to the weights of an
  early step, train again. The rule's state goes on, its step counter included;
  to train on with fixed masks, use `static_masks(get_masks(opt_state))`. The
  optimizer, its schedules and counters start afresh.

  Args:
    optimizer: The transformation that contains `sparsify`.
    opt_state: Its present state.
    params: The earlier params, dense where a later prune should be able to take
      back what is pruned now.

  Returns:
    The params under the present masks, and the state that goes with them.

  Raises:
    ValueError: If there is not one `SparsifyState` in the state, the params do
      not fit it, or the masks are no part of the state, because they follow
      from the weights (DST, STR).
    TypeError: If the optimizer is none.

  Example:
    >>> early = {'w': jnp.ones((2, 2))}
    >>> tx = scl_jax.sparsify(optax.adam(1e-3), scl_jax.scl(penalty=5e-3))
    >>> opt_state = tx.init(early)
    >>> params, opt_state = rewind(tx, opt_state, early)
  """
  checks.check_optimizer(optimizer)
  present = get_sparsify_state(opt_state)
  if inspect.ismethod(present.rule_state.masks):
    raise ValueError(
      f'The masks of {type(present.rule_state).__name__} follow from the '
      'weights, so other weights have other masks. Train on under fixed ones: '
      'sparsify(optimizer, static_masks(get_masks(opt_state))).'
    )
  # Within `optax.partition` only some of the params are there.
  earlier: PyTree = params
  weights = get_sparsify_state(optimizer.init(earlier)).weights
  tree_lib.check_same_structure(weights, present.weights, 'params', 'the state')
  masked = masks_lib.apply_masks(params, get_masks(opt_state))
  masked = tree_lib.unshared(masked, params)  # to go back to them again
  fresh = optimizer.init(masked)  # some optimizers remember values of params

  def replace(node):
    if not isinstance(node, SparsifyState):
      return node
    return SparsifyState(weights, present.rule_state, node.inner_state)

  state = jax.tree.map(
    replace, fresh, is_leaf=lambda node: isinstance(node, SparsifyState)
  )
  return masked, state
