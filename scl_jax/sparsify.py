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
"""The seam between an optimizer and a method that decides masks.

A sparse network is params = weights * masks. This product can be differentiated
*outside* the model: with g = ∂L/∂params, taken at the effective parameters, the
chain rule gives

    ∂L/∂weights     = g * masks
    ∂L/∂mask_params = g * weights * s'(mask_params)

So nothing about the model has to change. The dense weights and whatever decides
the masks live in the optimizer's state, the model only ever sees effective
parameters, and the one dense gradient g of an ordinary backward pass serves
every method. What is done to optimizer states (checkpoints, sharding, `vmap`,
accumulation) is thereby done to masks.

A method is a `MaskRule`: pure functions in a NamedTuple, as optax's own
transformations are. `sparsify(optimizer, rule)` is the one wrapper; a step is

    live       g * masks                     what the inner optimizer sees
    weights    += masks * optimizer(live)    a weight behind a closed mask rests
    rule_state  = rule.update(g, rule_state, weights before the step)
    params      = weights * new masks        exactly 0 where pruned

It returns `params - old params` as its updates, so it is used like any other
optax optimizer, and may stand within `optax.chain`, `partition` or
`MultiSteps`.

Rules differ in what a connection that comes back resumes: the weight that it
had (SCL), or zero, with zero optimizer moments (RigL, SET). A rule declares
which. Its state must have an attribute `masks`, so that a state says by itself
what is live: `get_masks` needs no rule.

Where masks follow from the weights (Dynamic Sparse Training, soft thresholds),
params are another function of weights and mask variables than their product,
and the rule gives it: `effective(weights, mask_params)`. It is differentiable,
so the chain rule is `jax.vjp`, again outside the model. A step is then

    g_w, g_m    = vjp of effective at (weights, mask_params), applied to g
    weights    += optimizer(g_w)             whatever effective does with them
    rule_state  = rule.update(g, ...)        which moves mask_params along g_m
    params      = effective(weights, mask_params)

and the state's `masks` is a function of the weights. SCL is the same kind of
thing, with effective = weights * S(mask_params), except that it must not take
this path: a derivative there is the product above, which SCL needs for each
connection before it is normalised, and its weights rest while their masks are
closed, where here they move and decay as any variable of the optimizer does.

Inside `jax.pmap` or `jax.shard_map`, average gradients (`jax.lax.pmean`) first:
then all copies prune alike. Of weights that `shard_map` has cut, norms, counts
and targets are the shard's own; under `jax.jit` they are global.

Weights are float32 also where params are bfloat16 or float16. Leaves that are
not floating point are left alone.
"""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

_NO_PARAMS = (
  'params is missing: call update(grads, state, params) with the current '
  'params.'
)


class MaskRule(NamedTuple):
  """A method that decides masks.

  Attributes:
    init: `weights -> rule_state`. The state is a pytree with an attribute
      `masks`: a tree like `weights` of arrays of {0, 1}, of the weight's shape
      or one that `masks.expand` takes there, `None` at other leaves. With
      `effective` it is a method `weights -> masks`, and the state has a second
      attribute, `mask_params`.
    update: `(grads, rule_state, weights) -> rule_state`. `grads` are dense and
      taken at the effective parameters; both trees are float32 (or wider).
    resumes_weights: Whether a connection that comes back has its stored weight.
      If not, it starts from zero, and so do its optimizer moments.
    effective: `(weights, mask_params) -> params`, differentiable, for a rule
      whose params are not weights * masks; exactly 0 where a mask is 0.
  """

  init: Callable[[PyTree], Any]
  update: Callable[[PyTree, Any, PyTree], Any]
  resumes_weights: bool = True
  effective: Callable[[PyTree, PyTree], PyTree] | None = None


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


def sparsify(
  optimizer: optax.GradientTransformation, rule: MaskRule
) -> optax.GradientTransformationExtraArgs:
  """Makes `optimizer` train a sparse network, with masks decided by `rule`.

  After each step `params` hold exact zeros where the masks are 0.

  Args:
    optimizer: Any optax optimizer. It sees the gradients of live connections
      and the effective parameters, so clipping and weight decay act on what is
      live.
    rule: A `MaskRule`, such as `scl_jax.scl(penalty=5e-3)`.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its state owns the weights:
    `params` are read for their dtype and difference only, so to change weights
    from outside, call `init` again.

  Raises:
    ValueError: At `init` and `update`, if trees hold anything but numbers or do
      not fit each other, or `params` are missing.
    TypeError: If an argument is of the wrong kind.

  Example:
    >>> tx = sparsify(optax.sgd(0.1), scl_jax.scl(penalty=0.01))
    >>> params = {'w': jnp.ones((2, 2)), 'b': jnp.zeros(2)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update(params, state, params)
    >>> params = optax.apply_updates(params, updates)
  """
  if not isinstance(rule, MaskRule):
    raise TypeError(
      'rule must be a MaskRule, such as scl_jax.scl(penalty=5e-3); got '
      f'{rule!r}.'
    )
  if not (hasattr(optimizer, 'init') and hasattr(optimizer, 'update')):
    raise TypeError(
      'optimizer must be an optax.GradientTransformation, such as '
      f'optax.adam(1e-3); got {optimizer!r}.'
    )
  if rule.effective is not None and not rule.resumes_weights:
    raise ValueError(
      'rule has its own `effective`, so its weights are never reset: '
      'resumes_weights must be True.'
    )
  inner = optax.with_extra_args_support(optimizer)
  step = _step_of_function
  if rule.effective is None:
    # Made once: to `lax.cond` a new function is a new program to compile.
    step = functools.partial(_step_of_product, functools.partial(_reset, inner))

  def init_fn(params):
    tree_lib.check_arrays(params, 'params')
    weights = as_weights(params)
    rule_state = rule.init(weights)
    effective = _effective(rule, weights, rule_state)
    variables = effective if rule.effective is None else weights
    return SparsifyState(weights, rule_state, inner.init(variables))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(_NO_PARAMS)
    tree_lib.check_same_structure(params, state.weights, 'params', 'the state')
    tree_lib.check_same_structure(params, updates, 'params', 'updates')
    # From here on leaves that are not floating point are None.
    grads = jax.tree.map(
      lambda _, w, g: None if w is None else g.astype(w.dtype),
      params,
      state.weights,
      updates,
    )
    state = step(inner, rule, grads, state, extra_args)
    effective = _effective(rule, state.weights, state.rule_state)
    return jax.tree.map(_difference, params, effective), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def pull_back(
  effective: Callable[[PyTree, PyTree], PyTree],
  grads: PyTree,
  weights: PyTree,
  mask_params: PyTree,
) -> tuple[PyTree, PyTree]:
  """The chain rule through `effective`, outside the model.

  For the `update` of a rule that has its own `effective`.

  Args:
    effective: `(weights, mask_params) -> params`, differentiable.
    grads: ∂L/∂params at `effective(weights, mask_params)`.
    weights: The weights, `None` at leaves that have none.
    mask_params: The mask variables, `None` at leaves that are not prunable.

  Returns:
    (∂L/∂weights, ∂L/∂mask_params), trees like `weights` and `mask_params`.

  Example:
    >>> pull_back(jnp.multiply, jnp.ones(1), 2 * jnp.ones(1), 3 * jnp.ones(1))
    (Array([3.], dtype=float32), Array([2.], dtype=float32))
  """
  _, pull = jax.vjp(effective, weights, mask_params)
  return pull(grads)


def get_masks(opt_state: optax.OptState) -> PyTree:
  """The masks in the state of an optimizer that contains `sparsify`.

  Args:
    opt_state: The state, with one `SparsifyState` anywhere within.

  Returns:
    A tree like the params: arrays of {0, 1} of the weight's shape and dtype,
    `None` at leaves that are not prunable.

  Raises:
    ValueError: If there is no `SparsifyState`, or more than one.

  Example:
    >>> tx = sparsify(optax.sgd(0.1), scl_jax.scl(penalty=0.01))
    >>> get_masks(tx.init({'w': jnp.zeros((1, 2)), 'b': jnp.zeros(2)}))
    {'b': None, 'w': Array([[1., 1.]], dtype=float32)}
  """
  state = get_sparsify_state(opt_state)
  return jax.tree.map(
    lambda w, mask: (
      None if mask is None else masks_lib.expand(mask, w.shape).astype(w.dtype)
    ),
    state.weights,
    _masks_of(state.rule_state, state.weights),
  )


def get_params(opt_state: optax.OptState, rule: MaskRule) -> PyTree:
  """The effective parameters, computed from the state of an optimizer.

  They are those that `optax.apply_updates` gives. A training loop that computes
  them in each step need not store them, nor does a checkpoint: 4 bytes for each
  parameter less.

  Args:
    opt_state: The state, with one `SparsifyState` anywhere within.
    rule: The rule that `sparsify` was given.

  Returns:
    A tree like the params, in the weights' dtype, float32 or wider; `None` at
    leaves that are not floating point, which the state does not have.

  Raises:
    ValueError: If there is no `SparsifyState`, or more than one.

  Example:
    >>> rule = scl_jax.scl(penalty=0.01)
    >>> tx = sparsify(optax.sgd(0.1), rule)
    >>> state = tx.init({'w': jnp.ones((1, 2))})
    >>> @jax.jit
    ... def step(state, x):
    ...   params = get_params(state, rule)
    ...   grads = jax.grad(lambda p: jnp.sum(p['w'] @ x))(params)
    ...   return tx.update(grads, state, params)[1]
    >>> get_params(step(state, jnp.ones(2)), rule)
    {'w': Array([[0.9, 0.9]], dtype=float32)}
  """
  state = get_sparsify_state(opt_state)
  return _effective(rule, state.weights, state.rule_state)


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
    dtype = jnp.promote_types(jnp.result_type(leaf), jnp.float32)
    return jnp.array(leaf, dtype=dtype, copy=True)

  return jax.tree.map(as_weight, params)


def _step_of_product(reset, inner, rule, grads, state, extra_args):
  """A step where params = weights * masks."""
  weights, masks = state.weights, _masks_of(state.rule_state, state.weights)
  # Behind a barrier, so that XLA does not share these masks with those below:
  # to compare twice is cheaper than to store and load the result.
  masks_of_grads = _masks_of(
    jax.lax.optimization_barrier(state.rule_state), state.weights
  )
  steps, inner_state = inner.update(
    masks_lib.apply_masks(grads, masks_of_grads),
    state.inner_state,
    masks_lib.apply_masks(weights, masks),
    **extra_args,
  )
  new_weights = optax.apply_updates(
    weights, masks_lib.apply_masks(steps, masks)
  )
  rule_state = rule.update(grads, state.rule_state, weights)
  if not rule.resumes_weights:
    regrown = jax.tree.map(
      _regrown, new_weights, _masks_of(rule_state, new_weights), masks
    )
    # A `where` on moments would keep the optimizer's step from being fused.
    is_any = jnp.stack([leaf.any() for leaf in jax.tree.leaves(regrown)]).any()
    new_weights, inner_state = jax.lax.cond(
      is_any, reset, _keep, new_weights, inner_state, regrown
    )
  return SparsifyState(new_weights, rule_state, inner_state)


def _step_of_function(inner, rule, grads, state, extra_args):
  """A step where params = effective(weights, mask_params)."""
  weights, mask_params = state.weights, state.rule_state.mask_params
  weight_grads, _ = pull_back(rule.effective, grads, weights, mask_params)
  steps, inner_state = inner.update(
    weight_grads, state.inner_state, weights, **extra_args
  )
  rule_state = rule.update(grads, state.rule_state, weights)
  return SparsifyState(
    optax.apply_updates(weights, steps), rule_state, inner_state
  )


def _effective(rule: MaskRule, weights: PyTree, rule_state: Any) -> PyTree:
  if rule.effective is None:
    masks = _masks_of(rule_state, weights)
    return masks_lib.apply_masks(weights, masks)
  return rule.effective(weights, rule_state.mask_params)


def _masks_of(rule_state: Any, weights: PyTree) -> PyTree:
  if not hasattr(rule_state, 'masks'):
    raise TypeError(
      "A rule's state must have an attribute `masks`: a field, a property, or "
      f'a method of the weights; {type(rule_state).__name__} has none.'
    )
  masks = rule_state.masks
  # Not `callable`, which a tree that is an Equinox module may be.
  return masks(weights) if inspect.ismethod(masks) else masks


def _reset(inner, weights, inner_state, regrown):
  """Regrown connections start from zero, and so do their moments."""
  inner_state = optax.tree_map_params(
    inner,
    _zero_where,
    inner_state,
    regrown,
    is_leaf=lambda node: isinstance(node, optax.MaskedNode),
  )
  return jax.tree.map(_zero_where, weights, regrown), inner_state


_keep = lambda weights, inner_state, regrown: (weights, inner_state)


def _regrown(
  weight: jax.Array, new_mask: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
  if new_mask is None or mask is None:
    return jnp.zeros_like(weight, dtype=bool)  # sharded as it is
  return masks_lib.expand(new_mask > mask, weight.shape)


def _zero_where(leaf: Any, where: jax.Array) -> Any:
  """Zeros, unless the leaf of a state is a hole or factored, not a moment."""
  if isinstance(leaf, optax.MaskedNode) or leaf.shape != where.shape:
    return leaf
  return jnp.where(where, jnp.zeros_like(leaf), leaf)


def _difference(param: Any, effective: jax.Array | None) -> jax.Array:
  param = jnp.asarray(param)
  if effective is None:
    return jnp.zeros_like(param)
  return effective.astype(param.dtype) - param
