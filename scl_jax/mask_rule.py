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
"""A method that decides masks: what it consists of.

How it is used, and how one is written: the essay in `scl_jax/sparsify.py`.
"""

from collections.abc import Callable
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import optax

from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


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
      If not, it starts from zero, with the moments of a fresh optimizer state.
    effective: `(weights, mask_params) -> params`, differentiable, for a rule
      whose params are not weights * masks; exactly 0 where a mask is 0.
  """

  init: Callable[[PyTree], Any]
  update: Callable[[PyTree, Any, PyTree], Any]
  resumes_weights: bool = True
  effective: Callable[[PyTree, PyTree], PyTree] | None = None


def check_rule(value: Any) -> None:
  """Raises unless `rule` is a `MaskRule`.

  Args:
    value: What was given for it.

  Raises:
    TypeError: If it is something else.
  """
  if not isinstance(value, MaskRule):
    raise TypeError(
      'rule must be a MaskRule, such as scl_jax.scl(penalty=5e-3); got '
      f'{value!r}.'
    )


def value_at(value: optax.ScalarOrSchedule, count: ArrayLike) -> jax.Array:
  """What a number or a schedule is at a step.

  For the `update` of a rule. Taken anew in each step, not from the state, so
  that a value may be traced and changed by `optax.inject_hyperparams`.

  Args:
    value: A number, a scalar array or a schedule of the step.
    count: The step.

  Returns:
    A float32 scalar.

  Raises:
    ValueError: If it is something else than a number.
  """
  now = value(count) if callable(value) else value
  if now is None or jnp.ndim(now):
    raise ValueError(
      f'{value!r} must be a number, or a schedule that gives one; got {now!r}.'
    )
  return jnp.asarray(now, jnp.float32)


def end_in_force(
  given: ArrayLike, known: jax.Array, count: jax.Array
) -> jax.Array:
  """The step in which a schedule ends, also where a resumed run has moved it.

  For the `update` of a rule whose state holds that step. One that was lowered
  to before the present step is the present one.

  Args:
    given: The step that the rule was given.
    known: The one in its state.
    count: The present step.

  Returns:
    An int32 scalar, to keep in the state.

  Example:
    >>> end_in_force(40, jnp.int32(400), jnp.int32(50))
    Array(50, dtype=int32)
  """
  given = jnp.asarray(given, jnp.int32)
  return jnp.where(count <= given, given, jnp.minimum(known, count))


@jax.jit
def finite_or_zero(gradient: jax.Array) -> jax.Array:
  """A gradient of mask variables without what would stay in them for good.

  For the `update` of a rule. Optimizers can be guarded against a bad batch, by
  `optax.apply_if_finite` for one, but no guard of the inner one reaches masks.

  Args:
    gradient: An array.

  Returns:
    It, with 0 where it is not finite.
  """
  return jnp.where(jnp.isfinite(gradient), gradient, jnp.zeros_like(gradient))


def all_finite(tree: PyTree) -> jax.Array:
  """Whether a batch may decide masks that nothing takes back.

  For the `update` of a rule that chooses masks by one gradient; see
  `finite_or_zero`.

  Args:
    tree: Arrays, at least one.

  Returns:
    A bool scalar.
  """
  leaves = jax.tree.leaves(tree)
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def stored_like(masks: PyTree, before: PyTree) -> PyTree:
  """New masks in the dtypes in which a state has them.

  For the `update` of a rule. They are bool, but `optax.contrib.sam` computes
  with the entries of states, which makes integers of them.

  Args:
    masks: Arrays of {0, 1} of any dtype.
    before: The masks of the state, a tree like `masks`.

  Returns:
    A tree like `masks`.
  """
  return jax.tree.map(
    lambda mask, old: mask.astype(bool).astype(old.dtype), masks, before
  )


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


def masks_of(rule_state: Any, weights: PyTree) -> PyTree:
  """The masks of a rule.

  Args:
    rule_state: The rule's state.
    weights: The weights, which the masks may follow from.

  Returns:
    The masks as the rule has them: a tree like `weights` of arrays of {0, 1},
    of the weight's shape or one that `masks.expand` takes there.

  Raises:
    TypeError: If the state has no attribute `masks`.
  """
  if not hasattr(rule_state, 'masks'):
    raise TypeError(
      "A rule's state must have an attribute `masks`: a field, a property, or "
      f'a method of the weights; {type(rule_state).__name__} has none.'
    )
  masks = rule_state.masks
  # Not `callable`, which a tree that is an Equinox module may be.
  return masks(weights) if inspect.ismethod(masks) else masks


def params_of(rule: MaskRule, rule_state: Any, weights: PyTree) -> PyTree:
  """The effective parameters that a rule makes of weights.

  Args:
    rule: The rule.
    rule_state: Its state.
    weights: The weights.

  Returns:
    A tree like `weights`, exactly 0 where masks are 0.
  """
  if rule.effective is None:
    return masks_lib.keep_live(weights, masks_of(rule_state, weights))
  return rule.effective(weights, rule_state.mask_params)
