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
had (SCL), or zero, with the moments of a fresh optimizer state (RigL, SET). A
rule declares which. Moments are arrays of the weight's shape; what an optimizer
keeps of rows or columns, and its step count, stay. (So `optax.contrib.acprop`,
which divides by the moment of the step before, does not fit such a rule.) A
rule's state must have an attribute `masks`, so that it says by itself what is
live: `get_masks` needs no rule.

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

import functools
from typing import Any

import jax
from jax import core
import jax.numpy as jnp
import optax

from scl_jax import checks
from scl_jax import mask_rule
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib
from scl_jax import xla_options
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import masks_of
from scl_jax.mask_rule import params_of
from scl_jax.mask_rule import pull_back
from scl_jax.state import SparsifyState
from scl_jax.state import as_weights

PyTree = tree_lib.PyTree

_NO_PARAMS = (
  'params is missing: call update(grads, state, params) with the current '
  'params.'
)


def sparsify(
  optimizer: optax.GradientTransformation, rule: MaskRule
) -> optax.GradientTransformationExtraArgs:
  """Makes `optimizer` train a sparse network, with masks decided by `rule`.

  After each step `params` hold exact zeros where the masks are 0.

  What changes gradients may stand before `sparsify` or within; what changes
  updates stands within, the learning rate, decay and scale included. Nothing of
  that kind may follow or surround it: the state owns the weights, so an update
  that was rescaled afterwards (`chain(sparsify(scale_by_adam(), rule),
  scale(-0.01))`), or params that are evaluated elsewhere (`lookahead`,
  `schedule_free` and `mechanize` around it), are undone by the next step,
  without a word. The evaluation weights of a schedule-free optimizer within are
  dense; `apply_masks(eval_params, get_masks(state))` prunes them.

  Functions that an optimizer is handed (`obj_fn` of Sophia, `value_fn`) are
  called with what it optimizes: effective params, or the weights if the rule
  has its own `effective`.

  A line search within (`optax.lbfgs`) judges a step before masks act on it.
  Under `static_masks` that is exact. Under masks that move, or have moved, take
  value and gradient from `jax.value_and_grad` in each step: those of
  `optax.value_and_grad_from_state` are of other params.

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
      not fit each other, `params` are missing, or the state is another rule's.
    TypeError: If an argument is of the wrong kind.

  Example:
    >>> tx = sparsify(optax.sgd(0.1), scl_jax.scl(penalty=0.01))
    >>> params = {'w': jnp.ones((2, 2)), 'b': jnp.zeros(2)}
    >>> state = tx.init(params)
    >>> updates, state = tx.update(params, state, params)
    >>> params = optax.apply_updates(params, updates)
  """
  mask_rule.check_rule(rule)
  checks.check_optimizer(optimizer)
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
    effective = params_of(rule, rule_state, weights)
    variables = effective if rule.effective is None else weights
    # Some optimizers keep in their state what they start from.
    variables = tree_lib.unshared(variables, weights)
    return SparsifyState(weights, rule_state, inner.init(variables))

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(_NO_PARAMS)
    if not isinstance(state, SparsifyState):
      raise TypeError(
        f'state must be what init has made, got a {type(state).__name__}: the '
        'order is update(updates, state, params), and a checkpoint that is '
        'restored without a target comes back as dicts; give it '
        'optimizer.init(params) as the target.'
      )
    tree_lib.check_same_structure(params, state.weights, 'params', 'the state')
    tree_lib.check_same_structure(params, updates, 'params', 'updates')
    # From here on leaves that are not floating point are None.
    grads = jax.tree.map(
      lambda _, w, g: None if w is None else jnp.asarray(g, w.dtype),
      params,
      state.weights,
      updates,
    )
    run = lambda grads, state: step(inner, rule, grads, state, extra_args)
    # Not of a function: what is computed again would be its derivative.
    is_product = rule.effective is None
    if is_product and _is_traced(grads) and xla_options.joins_loops():
      from scl_jax import loop_fusion  # what reads programs is imported late

      run = loop_fusion.separately(run)
    try:
      new_state = run(grads, state)
    except (AttributeError, TypeError, ValueError) as error:
      expected = jax.eval_shape(rule.init, state.weights)
      _check_same_rule(state.rule_state, expected, error)
      raise
    _check_same_rule(state.rule_state, new_state.rule_state)
    effective = params_of(rule, new_state.rule_state, new_state.weights)
    return jax.tree.map(_difference, params, effective), new_state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_traced(tree: PyTree) -> bool:
  return any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(tree))


def _check_same_rule(given, made, cause=None) -> None:
  """Raises if a rule was given a state of another kind than it makes."""
  if jax.tree.structure(given) != jax.tree.structure(made):
    raise ValueError(
      f'state was made by another rule, or by one with other options: it holds '
      f'a {type(given).__name__} that does not fit. Go on with the rule that '
      'made it, or start the new one by init(params).'
    ) from cause


def _step_of_product(reset, inner, rule, grads, state, extra_args):
  """A step where params = weights * masks."""
  weights, masks = state.weights, masks_of(state.rule_state, state.weights)
  steps, inner_state = inner.update(
    masks_lib.keep_live(grads, masks),
    state.inner_state,
    masks_lib.keep_live(weights, masks),
    **extra_args,
  )
  new_weights = optax.apply_updates(weights, masks_lib.keep_live(steps, masks))
  rule_state = rule.update(grads, state.rule_state, weights)
  if not rule.resumes_weights:
    regrown = jax.tree.map(
      _regrown, new_weights, masks_of(rule_state, new_weights), masks
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
  grads = jax.tree.map(
    _finite_where_closed, grads, masks_of(state.rule_state, weights)
  )
  weight_grads, _ = pull_back(rule.effective, grads, weights, mask_params)
  steps, inner_state = inner.update(
    weight_grads, state.inner_state, weights, **extra_args
  )
  rule_state = rule.update(grads, state.rule_state, weights)
  return SparsifyState(
    optax.apply_updates(weights, steps), rule_state, inner_state
  )


def _finite_where_closed(grad: jax.Array, mask: jax.Array | None) -> jax.Array:
  """The gradient, with 0 for what is not finite where the mask is 0.

  There `effective` has the derivative 0 for some rules, and not for others.
  """
  if mask is None:
    return grad
  is_lost = ~masks_lib.expand(mask, grad.shape).astype(bool)
  is_lost &= ~jnp.isfinite(grad)
  return jnp.where(is_lost, jnp.zeros_like(grad), grad)


def _reset(inner, weights, inner_state, regrown):
  """Regrown connections start from zero, with the moments of a fresh state."""
  weights = jax.tree.map(
    lambda w, where: jnp.where(where, jnp.zeros_like(w), w), weights, regrown
  )
  where_of = jax.tree.leaves(regrown)
  leaves, treedef = jax.tree.flatten(inner_state)
  fresh_state = inner.init(weights)
  if jax.tree.structure(fresh_state) != treedef:
    raise ValueError(
      'optimizer changes the structure of its state, as optax.monitor does, so '
      'the moments of connections that come back cannot be reset: leave that '
      f'part out. Now it is {treedef}, after init '
      f'{jax.tree.structure(fresh_state)}.'
    )

  def refresh(owner, now, fresh):
    # A moment is one array of the weight's shape.
    if owner is None or jnp.shape(now) != where_of[owner].shape:
      return now
    now = jnp.asarray(now)
    return jnp.where(where_of[owner], jnp.asarray(fresh, now.dtype), now)

  return weights, treedef.unflatten(
    map(
      refresh,
      tree_lib.owners(inner_state, regrown),
      leaves,
      jax.tree.leaves(fresh_state),
    )
  )


_keep = lambda weights, inner_state, regrown: (weights, inner_state)


def _regrown(
  weight: jax.Array, new_mask: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
  if new_mask is None or mask is None:
    return jnp.zeros_like(weight, dtype=bool)  # sharded as it is
  return masks_lib.expand(new_mask > mask, weight.shape)


def _difference(param: Any, effective: jax.Array | None) -> jax.Array:
  param = jnp.asarray(param)
  if effective is None:
    return jnp.zeros_like(param)
  return effective.astype(param.dtype) - param
