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
"""What every rule must hold, as checks that your own rule can run.

    scl_jax.testing.check_rule(my_rule(update_every=2), target_density=0.3)

trains a tiny network and raises an `AssertionError` that says what broke. The
rule must act within `num_steps` steps, and select its leaves by the default
`prunable`. It needs jax, numpy and optax alone.

Rule and optimizer are compiled apart, once each, so that all rules under all
optimizers take seconds; `check_jit_and_vmap` compiles whole steps.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from scl_jax import tree as tree_lib
from scl_jax.mask_rule import MaskRule
from scl_jax.mask_rule import masks_of
from scl_jax.sparsify import sparsify
from scl_jax.state import get_masks
from scl_jax.state import get_sparsify_state
from scl_jax.testing_optimizers import OPTIMIZERS

PyTree = tree_lib.PyTree


def check_rule(
  rule: MaskRule,
  *,
  target_density: float | None = None,
  num_steps: int = 12,
) -> None:
  """Runs all checks.

  Args:
    rule: The rule.
    target_density: The density that the rule promises after `num_steps`
      updates, if it does; checked to one connection.
    num_steps: The steps to train, at least 4.

  Raises:
    AssertionError: If the rule breaks a promise; the message says which.

  Example:
    >>> check_rule(scl_jax.snip(0.4), target_density=0.4)
  """
  for name in OPTIMIZERS:
    check_optimizer(rule, name, num_steps=num_steps)
  if target_density is not None:
    check_density(rule, target_density, num_steps=num_steps)
  check_jit_and_vmap(rule, num_steps=num_steps)
  check_bfloat16(rule, num_steps=num_steps)
  check_not_finite(rule, num_steps=num_steps)
  check_empty_selection(rule)


def check_optimizer(rule: MaskRule, name: str, *, num_steps: int = 12) -> None:
  """Trains under one optimizer.

  Pruned entries are exactly 0 after every step, something is pruned and
  something lives, the state keeps its structure, shapes and dtypes, and
  training resumed from a copy of the state in host memory is bitwise the same.

  Args:
    rule: The rule.
    name: A key of `OPTIMIZERS`.
    num_steps: The steps to train, at least 4.

  Raises:
    AssertionError: If one of these does not hold.
  """
  tx = _wrapped(rule, name)
  params = make_params()
  first = tx.init(params)
  step = functools.partial(_step, tx)
  history = _train(step, params, first, num_steps)
  for index, (params, state) in enumerate(history):
    _check_zeros(params, state, f'{name}, step {index}')
  _check_acts(history[-1][1], f'{name}, {num_steps} steps')
  _check_signature(first, history[-1][1], name)

  half = num_steps // 2
  saved = jax.device_get(history[half - 1])
  params, state = jax.tree.map(jnp.asarray, saved)
  again = _train(step, params, state, num_steps - half)
  _require(
    _is_equal(again[-1], history[-1]),
    f'{name}: training resumed from the saved state of step {half} differs. '
    'Does the rule keep something outside of its state?',
  )


def check_density(
  rule: MaskRule, target_density: float, *, num_steps: int = 12
) -> None:
  """Trains, and counts connections.

  Args:
    rule: The rule.
    target_density: The density after `num_steps` updates.
    num_steps: The steps to train.

  Raises:
    AssertionError: If the number of live connections is not the rounded product
      of density and connections.
  """
  tx = _wrapped(rule, 'adam')
  params = make_params()
  step = functools.partial(_step, tx)
  masks = get_masks(_train(step, params, tx.init(params), num_steps)[-1][1])
  leaves = [np.asarray(mask) for mask in jax.tree.leaves(masks)]
  live = int(sum(mask.sum() for mask in leaves))
  wanted = round(target_density * sum(mask.size for mask in leaves))
  _require(
    live == wanted,
    f'{live} connections are live after {num_steps} steps, expected {wanted} '
    f'for the density {target_density}.',
  )


def check_jit_and_vmap(rule: MaskRule, *, num_steps: int = 12) -> None:
  """Trains two networks at once, as it does one after another without jit.

  Args:
    rule: The rule.
    num_steps: The steps to train.

  Raises:
    AssertionError: If a step compiles again, masks differ, or params by more
      than rounding.
  """
  tx = sparsify(OPTIMIZERS['momentum'](), rule)
  networks = [make_params(0), make_params(1)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
  traces = []

  @jax.jit
  def step(params, state):
    traces.append(None)
    return jax.vmap(functools.partial(_step, tx))(params, state)

  params, state = _train(step, stacked, jax.vmap(tx.init)(stacked), num_steps)[
    -1
  ]
  _require(len(traces) == 1, f'jit: {len(traces)} compilations, expected 1.')
  masks = get_masks(state)
  tx = _wrapped(rule, 'momentum')
  for index, network in enumerate(networks):
    alone, alone_state = _train(
      functools.partial(_step, tx), network, tx.init(network), num_steps
    )[-1]
    part = lambda tree, index=index: jax.tree.map(lambda x: x[index], tree)
    _require(
      _is_equal(part(masks), get_masks(alone_state)),
      f'vmap: network {index} has other masks than when it is alone.',
    )
    for path, one, other in tree_lib.zip_leaves(alone, part(params)):
      _require(
        np.allclose(one, other, rtol=1e-4, atol=1e-5),
        f'vmap: {path!r} of network {index} is not what it is alone.',
      )


def check_bfloat16(rule: MaskRule, *, num_steps: int = 12) -> None:
  """Trains bfloat16 params: they stay so, with float32 weights behind them.

  Args:
    rule: The rule.
    num_steps: The steps to train.

  Raises:
    AssertionError: If a dtype changes or a pruned entry is not 0.
  """
  tx = _wrapped(rule, 'adam')
  start = make_params(dtype=jnp.bfloat16)
  step = functools.partial(_step, tx)
  for params, state in _train(step, start, tx.init(start), num_steps):
    _check_zeros(params, state, 'bfloat16')
    for path, leaf, weight in tree_lib.zip_leaves(
      params, get_sparsify_state(state).weights
    ):
      _require(
        leaf.dtype == jnp.bfloat16 and weight.dtype == jnp.float32,
        f'bfloat16: {path!r} is {leaf.dtype}, its weight {weight.dtype}.',
      )


def check_not_finite(rule: MaskRule, *, num_steps: int = 12) -> None:
  """Gradients that are not finite decide nothing and stay nowhere.

  A rule takes such an entry for 0, or the sum over a layer in which it is, see
  `mask_rule.finite_or_zero`; or it leaves its masks as they are. At connections
  that are not live such a gradient does not reach the weights either.

  Args:
    rule: The rule.
    num_steps: The steps to train; after each, a bad batch is tried.

  Raises:
    AssertionError: If it has other masks then, or something in its state is not
      finite, or the weights are not.
  """
  tx = _wrapped(rule, 'adam')
  update = _compiled(rule.update)
  params = make_params()
  start = (params, tx.init(params))
  history = _train(functools.partial(_step, tx), *start, num_steps)
  for index, (params, state) in enumerate([start, *history]):
    weights, before, _ = get_sparsify_state(state)

    def after(value, where, params=params, before=before, weights=weights):
      grads = _loss_grad(params)
      grads['first']['kernel'] = grads['first']['kernel'].at[where].set(value)
      new = update(grads, before, weights)
      return masks_of(new, weights), jax.tree.map(_is_finite, new)

    feature = np.s_[:, 1]
    masks, finite = after(0.0, feature)
    allowed = [masks, after(0.0, ...)[0], masks_of(before, weights)]
    for value in (jnp.nan, jnp.inf):
      bad_masks, bad_finite = after(value, feature)
      where = f'not finite: step {index}, gradients of {value}'
      _require(
        any(_is_equal(bad_masks, masks) for masks in allowed),
        f'{where} decide masks. See `finite_or_zero` in scl_jax/mask_rule.py.',
      )
      _require(
        _is_equal(bad_finite, finite), f'{where} stay in the state of the rule.'
      )
      _check_rest(tx, value, params, state, where)


def check_empty_selection(rule: MaskRule) -> None:
  """A tree without prunable leaves is an error, not a dense network.

  Args:
    rule: The rule.

  Raises:
    AssertionError: If `init` does not raise a `ValueError`.
  """
  try:
    rule.init({'bias': jnp.zeros(3)})
  except ValueError:
    return
  raise AssertionError(
    "init accepts {'bias': (3,)}, in which nothing is prunable; it should "
    'raise a ValueError.'
  )


def make_params(seed: int = 0, dtype: Any = jnp.float32) -> PyTree:
  """The params of the tiny network: two layers, 50 connections, a hole.

  Args:
    seed: Of the random weights.
    dtype: Of all leaves.

  Returns:
    A dict; two of the entries of the first kernel are 0.
  """
  keys = jax.random.split(jax.random.key(seed), 2)
  first = jax.random.normal(keys[0], (6, 5), jnp.float32).at[0, :2].set(0.0)
  second = jax.random.normal(keys[1], (5, 4), jnp.float32)
  return {
    'first': {'kernel': first.astype(dtype), 'bias': jnp.zeros(5, dtype)},
    'hole': None,
    'second': {'kernel': second.astype(dtype), 'bias': jnp.zeros(4, dtype)},
  }


def loss(params: PyTree) -> jax.Array:
  """The mean squared error of the tiny network on its 16 examples."""
  inputs = jax.random.normal(jax.random.key(2), (16, 6), jnp.float32)
  targets = jax.random.normal(jax.random.key(3), (16, 4), jnp.float32)
  params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
  first, second = params['first'], params['second']
  hidden = jnp.tanh(inputs @ first['kernel'] + first['bias'])
  outputs = hidden @ second['kernel'] + second['bias']
  return jnp.mean(jnp.square(outputs - targets))


@functools.cache
def _optimizer(name: str) -> optax.GradientTransformation:
  """The optimizer with a compiled update, the same one for all rules."""
  tx = OPTIMIZERS[name]()
  return optax.GradientTransformation(tx.init, jax.jit(tx.update))


@functools.lru_cache(maxsize=32)
def _compiled(update: Callable[..., Any]) -> Callable[..., Any]:
  """The update of a rule, the same one for all optimizers."""
  return jax.jit(update)


def _wrapped(
  rule: MaskRule, name: str
) -> optax.GradientTransformationExtraArgs:
  return sparsify(
    _optimizer(name), rule._replace(update=_compiled(rule.update))
  )


_loss_grad = jax.jit(jax.grad(loss))


def _step(tx, params, state):
  updates, state = tx.update(_loss_grad(params), state, params)
  return optax.apply_updates(params, updates), state


def _train(step, params, state, num_steps):
  history = []
  for _ in range(num_steps):
    params, state = step(params, state)
    history.append((params, state))
  return history


def _check_zeros(params, state, where):
  for path, leaf, mask in tree_lib.zip_leaves(params, get_masks(state)):
    if mask is None:
      continue
    leaf, mask = np.asarray(leaf, np.float32), np.asarray(mask)
    _require(
      bool(np.all((mask == 0) | (mask == 1))),
      f'{where}: the mask of {path!r} holds other numbers than 0 and 1.',
    )
    _require(
      not np.any(leaf[mask == 0]),
      f'{where}: pruned entries of {path!r} are not exactly 0.',
    )


def _check_rest(tx, value, params, state, where):
  """Gradients of that value where masks are 0 leave all else finite."""
  masks = get_masks(state)
  grads = jax.tree.map(
    lambda g, mask: g if mask is None else jnp.where(mask == 0, value, g),
    _loss_grad(params),
    masks,
  )
  updates, state = tx.update(grads, state, params)
  kept = optax.apply_updates(params, updates), get_sparsify_state(state)
  _require(
    all(np.all(_is_finite(leaf)) for leaf in jax.tree.leaves(kept)),
    f'{where} at closed connections reach weights or optimizer.',
  )
  _check_zeros(kept[0], state, where)


def _check_acts(state, where):
  masks = [np.asarray(mask) for mask in jax.tree.leaves(get_masks(state))]
  live = sum(int(mask.sum()) for mask in masks)
  _require(
    0 < live < sum(mask.size for mask in masks),
    f'{where}: {live} connections are live, so the check would show nothing. '
    'Make a rule that prunes some of them within these steps.',
  )


def _check_signature(first, last, where):
  before, after = _signature(first), _signature(last)
  _require(
    before == after,
    f'{where}: the state changes its structure, shapes or dtypes: from\n'
    f'{before}\nto\n{after}',
  )


def _signature(tree):
  leaves, treedef = jax.tree.flatten(tree)
  return treedef, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]


def _is_equal(tree, other):
  leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
  return len(leaves) == len(others) and all(
    np.array_equal(a, b) for a, b in zip(leaves, others, strict=True)
  )


def _is_finite(leaf):
  is_number = jnp.issubdtype(jnp.result_type(leaf), jnp.number)
  return np.isfinite(leaf) if is_number else np.bool_(True)  # a key, a mask


def _require(holds, message):
  if not holds:
    raise AssertionError(message)
