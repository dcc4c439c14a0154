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
"""The state of `sparsify`, and what can be read from it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scl_jax import mask_rule
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


class SparsifyState(NamedTuple):
  """State of `sparsify`.

  Attributes:
    weights: The dense weights, float32 or wider; `None` at leaves that are not
      floating point.
    rule_state: The state of the rule, with the masks.
    inner_state: The state of the inner optimizer.
  """

  weights: PyTree
  rule_state: Any
  inner_state: optax.OptState


def as_weights(params: PyTree) -> PyTree:
  """The dense weights that a state starts from.

  Args:
    params: Any pytree of arrays.

  Returns:
    A tree like `params` of copies (as donated buffers of params and state must
    not be the same), float32 or wider; `None` at leaves that are not floating
    point.
  """

  def as_weight(leaf):
    if not tree_lib.is_weight(leaf):
      return None
    given = jnp.result_type(leaf)
    # Not `promote_types`, which knows no way from float8 to float32.
    dtype = jnp.float32 if jnp.finfo(given).bits < 32 else given
    return jnp.array(leaf, dtype=dtype, copy=True)

  return jax.tree.map(as_weight, params)


def get_masks(opt_state: optax.OptState) -> PyTree:
  """The masks in the state of an optimizer that contains `sparsify`.

  Args:
    opt_state: The state, with one `SparsifyState` anywhere within.

  Returns:
    A tree like the params: arrays of {0, 1} of the weight's shape and dtype,
    `None` at leaves that are not prunable, and at leaves or whole subtrees that
    `sparsify` does not see, because it stands within `optax.partition`.

  Raises:
    ValueError: If there is no `SparsifyState`, or more than one.

  Example:
    >>> tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.scl(penalty=0.01))
    >>> get_masks(tx.init({'w': jnp.zeros((1, 2)), 'b': jnp.zeros(2)}))
    {'b': None, 'w': Array([[1., 1.]], dtype=float32)}
  """
  state = get_sparsify_state(opt_state)
  masks = jax.tree.map(
    lambda w, mask: (
      None if mask is None else masks_lib.expand(mask, w.shape).astype(w.dtype)
    ),
    state.weights,
    mask_rule.masks_of(state.rule_state, state.weights),
  )
  return _with_holes(masks)


def get_params(opt_state: optax.OptState, rule: mask_rule.MaskRule) -> PyTree:
  """The effective parameters, computed from the state of an optimizer.

  They are those that `optax.apply_updates` gives, up to rounding. A training
  loop that computes them in each step need not store them, nor does a
  checkpoint: 4 bytes for each parameter less.

  Args:
    opt_state: The state, with one `SparsifyState` anywhere within.
    rule: The rule that `sparsify` was given.

  Returns:
    A tree like the params, in the weights' dtype, float32 or wider; `None` at
    leaves that are not floating point, and at leaves or whole subtrees that
    `sparsify` does not see, which the state does not have.

  Raises:
    ValueError: If there is no `SparsifyState`, or more than one, or another
      rule has made it.
    TypeError: If the rule is none.

  Example:
    >>> rule = scl_jax.scl(penalty=0.01)
    >>> tx = scl_jax.sparsify(optax.sgd(0.1), rule)
    >>> state = tx.init({'w': jnp.ones((1, 2))})
    >>> @jax.jit
    ... def step(state, x):
    ...   params = get_params(state, rule)
    ...   grads = jax.grad(lambda p: jnp.sum(p['w'] @ x))(params)
    ...   return tx.update(grads, state, params)[1]
    >>> get_params(step(state, jnp.ones(2)), rule)
    {'w': Array([[0.9, 0.9]], dtype=float32)}
  """
  mask_rule.check_rule(rule)
  state = get_sparsify_state(opt_state)
  made = type(state.rule_state)
  makes = type(jax.eval_shape(rule.init, state.weights))
  if made is not makes:
    raise ValueError(
      f'rule makes a {makes.__name__}, but opt_state holds a {made.__name__}, '
      'which another rule has made: give the one that `sparsify` was given.'
    )
  params = mask_rule.params_of(rule, state.rule_state, state.weights)
  return _with_holes(tree_lib.unshared(params, state.weights))


def _with_holes(tree: PyTree) -> PyTree:
  """A tree with `None` for what another branch of `partition` has."""
  is_hole = lambda node: isinstance(node, optax.MaskedNode)
  return jax.tree.map(
    lambda node: None if is_hole(node) else node, tree, is_leaf=is_hole
  )


def get_sparsify_state(opt_state: optax.OptState) -> SparsifyState:
  """The one `SparsifyState` within the state of an optimizer.

  Args:
    opt_state: The state of `sparsify`, or of a transformation around it.

  Returns:
    The `SparsifyState`, with the weights and the rule's state.

  Raises:
    ValueError: If there is none, or more than one.
  """
  nodes = jax.tree.leaves(
    opt_state, is_leaf=lambda node: isinstance(node, SparsifyState)
  )
  found = [node for node in nodes if isinstance(node, SparsifyState)]
  if len(found) != 1:
    raise ValueError(
      'opt_state must contain exactly one SparsifyState, but it contains '
      f'{len(found)}. Was the optimizer made with scl_jax.sparsify(optimizer, '
      'rule), and is this its state? A checkpoint restored without a target '
      'comes back as dicts: restore into tx.init(params). Of several, pass '
      'the state of one.'
    )
  return found[0]
