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
"""The unit step and its straight-through estimators.

S(m) = 1 where m > 0, else 0, has derivative 0 wherever it has one. A
straight-through estimator (STE) puts a surrogate s'(m) in its place:

    dJ/dm = dJ/dS * s'(m)

The positivity principle (arXiv 2201.05020, abstract): s' must be positive, so
that mask variables converge at their minima. Then the sign of the mask
gradient is the sign of dJ/dS, so no m is stationary unless dJ/dS = 0, and a
connection whose return would lower J always moves towards its return. Where
s'(m) = 0, m stays for ever, on the wrong side as well (our derivation).

Each estimator below is a function m -> s'(m). `unit_step` takes one by name,
or any such function.
"""

from collections.abc import Callable, Mapping
import functools
import types

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Estimator = str | Callable[[jax.Array], jax.Array]


def identity(mask_params: jax.Array) -> jax.Array:
  """s'(m) = 1. Positive everywhere; the choice of the paper.

  Both sides of the threshold move at the same rate, so a mask variable that
  chatters around 0 is open for the unbiased share of the time. |m| has no
  bound of its own: keep it in a box, or regrowth takes ever longer.
  """
  return jnp.ones_like(mask_params)


def leaky_relu(mask_params: jax.Array, slope: float = 0.1) -> jax.Array:
  """s'(m) = 1 for m > 0, `slope` otherwise. Positive everywhere if slope > 0.

  Satisfies the principle. Closed connections return `1 / slope` times more
  slowly than open ones leave, which biases the outcome towards sparsity.
  """
  return jnp.where(mask_params > 0, 1.0, slope).astype(mask_params.dtype)


def softplus(mask_params: jax.Array) -> jax.Array:
  """s'(m) = sigmoid(m). Positive everywhere, though it vanishes as m → -∞.

  Satisfies the principle; return from far below 0 is slow.
  """
  return jax.nn.sigmoid(mask_params)


def relu(mask_params: jax.Array) -> jax.Array:
  """s'(m) = 1 for m > 0, else 0. Not positive: fails the principle.

  A closed connection has no gradient and never returns.
  """
  return (mask_params > 0).astype(mask_params.dtype)


def clipped_identity(mask_params: jax.Array) -> jax.Array:
  """s'(m) = 1 for |m| <= 1, else 0. Not positive: fails the principle.

  A mask variable beyond ±1 is stuck, open or closed.
  """
  return (jnp.abs(mask_params) <= 1).astype(mask_params.dtype)


def tanh(mask_params: jax.Array) -> jax.Array:
  """s'(m) = 1 - tanh² m. Positive, but it vanishes in both tails.

  Satisfies the principle on paper; far from 0 it underflows and m is stuck.
  """
  return 1 - jnp.tanh(mask_params) ** 2


def sigmoid(mask_params: jax.Array) -> jax.Array:
  """s'(m) = σ(m)(1 - σ(m)) <= 1/4. Positive, but vanishes in both tails.

  Satisfies the principle on paper; far from 0 it underflows and m is stuck.
  """
  # σ(-m) rather than 1 - σ(m), which is 0 in float32 from m = 17 on.
  return jax.nn.sigmoid(mask_params) * jax.nn.sigmoid(-mask_params)


def polynomial(mask_params: jax.Array) -> jax.Array:
  """s'(m) = 2 - 4|m| for |m| <= 0.4, 0.4 up to 1, 0 beyond: fails.

  The estimator of Dynamic Sparse Training (arXiv 2005.06870, eq. 6). A mask
  variable beyond ±1 is stuck, open or closed.
  """
  size = jnp.abs(mask_params)
  slope = jnp.where(size <= 0.4, 2 - 4 * size, 0.4)
  return jnp.where(size <= 1, slope, 0.0).astype(mask_params.dtype)


ESTIMATORS: Mapping[str, Callable[[jax.Array], jax.Array]] = (
  types.MappingProxyType(
    {
      'identity': identity,
      'leaky_relu': leaky_relu,
      'softplus': softplus,
      'relu': relu,
      'clipped_identity': clipped_identity,
      'tanh': tanh,
      'sigmoid': sigmoid,
      'polynomial': polynomial,
    }
  )
)


def get_estimator(
  estimator: Estimator,
) -> Callable[[jax.Array], jax.Array]:
  """The function s' of an estimator.

  Args:
    estimator: A key of `ESTIMATORS`, or a function m -> s'(m).

  Returns:
    The function.

  Raises:
    ValueError: If the name is unknown.
  """
  if callable(estimator):
    return estimator
  if not isinstance(estimator, str) or estimator not in ESTIMATORS:
    raise ValueError(
      f'estimator must be one of {", ".join(ESTIMATORS)}, or a function '
      f'm -> derivative; got {estimator!r}.'
    )
  return ESTIMATORS[estimator]


def unit_step(
  mask_params: ArrayLike, estimator: Estimator = 'identity'
) -> jax.Array:
  """S(m): exactly 1 where m > 0, exactly 0 elsewhere, in the dtype of m.

  The backward pass multiplies by the estimator's s'(m). Forward-mode
  differentiation is not defined (`jax.custom_vjp`).

  Args:
    mask_params: Mask variables m, floating point, of any shape.
    estimator: A key of `ESTIMATORS`, or a function m -> s'(m).

  Returns:
    An array like `mask_params` that holds only 0 and 1.

  Raises:
    ValueError: If the estimator is unknown, or m is not floating point.

  Example:
    >>> m = jnp.array([-0.5, 0.0, 0.5])
    >>> unit_step(m)
    Array([0., 0., 1.], dtype=float32)
    >>> jax.grad(lambda m: unit_step(m).sum())(m)
    Array([1., 1., 1.], dtype=float32)
  """
  derivative = get_estimator(estimator)
  if not jax.tree_util.all_leaves([mask_params]) or isinstance(
    mask_params, str
  ):
    raise ValueError(
      'mask_params must be one array, of a tree take jax.tree.map(unit_step, '
      f'mask_params); got {type(mask_params).__name__}.'
    )
  mask_params = jnp.asarray(mask_params)
  if not jnp.issubdtype(mask_params.dtype, jnp.floating):
    raise ValueError(
      'mask_params must be floating point, because a straight-through '
      f'estimator differentiates by them; got {mask_params.dtype}.'
    )
  return _unit_step(mask_params, derivative)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _unit_step(mask_params, derivative):
  del derivative
  return (mask_params > 0).astype(mask_params.dtype)


def _unit_step_fwd(mask_params, derivative):
  return _unit_step(mask_params, derivative), mask_params


def _unit_step_bwd(derivative, mask_params, cotangent):
  return (cotangent * derivative(mask_params),)


_unit_step.defvjp(_unit_step_fwd, _unit_step_bwd)
