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
"""Optax transformations for mask gradients.

They see mask variables as `params` and mask gradients as `updates`, and need
nothing but JAX, NumPy and optax:

    optax.chain(
        normalize_by_feature_norm(decay=0.99),
        add_connection_penalty(0.005),
        optax.sgd(0.05),
        keep_params_in_box(0.3),
    )
"""

from collections.abc import Callable, Sequence
import numbers
from typing import Any, NamedTuple

import jax
from jax import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

Axes = tuple[int, ...]
AxesOfLeaf = Callable[[Any, Any], Axes]

_NO_PARAMS = (
  'params is missing: call update(updates, state, params) with the current '
  'params.'
)


class NormalizeByFeatureNormState(NamedTuple):
  """State of `normalize_by_feature_norm` with a running norm.

  Attributes:
    count: Steps so far, int32.
    second_moment: The running mean of each feature's squared norm, float32;
      like the updates, with size 1 along the axes that are no features.
  """

  count: ArrayLike
  second_moment: optax.Updates


def normalize_by_feature_norm(
  decay: ArrayLike | None = None,
  feature_axes: Axes | AxesOfLeaf | None = (-1,),
  *,
  update_every: int = 1,
  eps: ArrayLike = 1e-12,
) -> optax.GradientTransformationExtraArgs:
  r"""Divides the updates of each feature by their Euclidean norm.

  With g_f the entries of feature f,

  .. math::
    n_f = \frac{g_f}{\sqrt{v_f} + \epsilon}, \qquad
    v_f = \|g_f\|^2 \quad\text{or}\quad
    v_f = \frac{\bar v_f}{1 - \text{decay}^t}, \;
    \bar v_f \leftarrow \text{decay}\, \bar v_f + (1 - \text{decay}) \|g_f\|^2 .

  Mask gradients of different features differ by orders of magnitude (arXiv
  2201.05020, abstract); divided by their norms, one penalty is the same price
  in every feature. The paper leaves the norm open; the running norm is our
  choice, as it did better than the current batch's (see README). Sums are taken
  in float32, and a feature whose norm is 0 stays 0: one that has never had a
  gradient when the running norm was updated waits for the next update. A norm
  that is not finite, or whose square is not, leaves the running one as it is.
  Under `jax.shard_map` the norm is that of the local shard; under `jax.jit` it
  is global.

  Args:
    decay: Decay of the running norm, in [0, 1); `None` takes the norm of the
      current updates.
    feature_axes: The axes that index features, for every leaf, or a function
      `(key_path, leaf) -> axes`; `()` or `None` takes each leaf as one feature.
      The default fits kernels laid out (..., in, out). A function must be named
      in `static_args` of `optax.inject_hyperparams`.
    update_every: Steps from one update of the running norm to the next; above
      1 it saves time and changes little.
    eps: ε, added to the norm.

  Returns:
    An `optax.GradientTransformationExtraArgs`. Its `update` may be given
    `recompute`, a function that computes the updates again: the branch that
    measures the norm in some of the steps then does so, and the other steps
    need not store the updates for it.

  Raises:
    ValueError: If an argument is out of its range; at `init` and `update`, if
      an axis is.

  Example:
    >>> tx = normalize_by_feature_norm()
    >>> updates = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    >>> tx.update(updates, tx.init(updates))[0]
    Array([[0.6, 0. ],
           [0.8, 0. ]], dtype=float32)
  """
  if decay is not None:
    _check('decay', decay, lambda x: (x >= 0) & (x < 1), 'None or in [0, 1)')
  _check(
    'update_every',
    update_every,
    lambda n: (n >= 1) & np.isfinite(n) & (n == np.floor(n)),
    'a whole number of steps >= 1',
  )
  _check('eps', eps, _is_positive_or_0, 'finite and >= 0')
  if not callable(feature_axes):
    _check_axes(feature_axes)

  def squared_norms(updates):
    def squared_norm(key_path, g):
      axes = _other_axes(key_path, g, feature_axes)
      return jnp.sum(jnp.square(g.astype(jnp.float32)), axes, keepdims=True)

    return jax.tree_util.tree_map_with_path(squared_norm, updates)

  def divide(g, v):
    # Not by eps alone: optax.inject_hyperparams makes it 0 in float16.
    norm = jnp.where(v > 0, jnp.sqrt(v) + eps, jnp.inf)
    return (g.astype(jnp.float32) / norm).astype(g.dtype)

  def init_fn(params):
    # From zeros, not from shapes alone: the norms of sharded features are
    # sharded likewise.
    zeros = squared_norms(jax.tree.map(jnp.zeros_like, params))
    if decay is None:
      return optax.EmptyState()
    return NormalizeByFeatureNormState(jnp.zeros((), jnp.int32), zeros)

  def update_fn(updates, state, params=None, *, recompute=None, **extra_args):
    del params, extra_args
    if decay is None:
      return jax.tree.map(divide, updates, squared_norms(updates)), state
    share = 1 - decay  # of the current updates in the running mean

    def blend(s, v):
      # What is not finite would stay for good.
      return jnp.where(jnp.isfinite(s), decay * v + share * s, v)

    def refresh():
      return jax.tree.map(
        lambda s, v: blend(s, v).astype(jnp.float32),
        squared_norms(updates if recompute is None else recompute()),
        state.second_moment,
      )

    if isinstance(update_every, int) and update_every == 1:
      second_moment = refresh()
    else:
      is_due = state.count % update_every == 0
      keep = lambda: state.second_moment
      if isinstance(is_due, core.Tracer):
        second_moment = jax.lax.cond(is_due, refresh, keep)
      else:  # without jit `cond` would compile these closures in each step
        second_moment = refresh() if is_due else keep()
    refreshes = state.count // update_every + 1
    correction = 1 - jnp.power(decay, refreshes.astype(jnp.float32))
    updates = jax.tree.map(
      lambda g, v: divide(g, v / correction), updates, second_moment
    )
    count = optax.safe_increment(state.count)
    return updates, NormalizeByFeatureNormState(count, second_moment)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _other_axes(
  key_path: Any, leaf: jax.Array, feature_axes: Axes | AxesOfLeaf | None
) -> Axes:
  """The axes to sum over: all but the feature axes."""
  if callable(feature_axes):
    feature_axes = feature_axes(key_path, leaf)
  _check_axes(feature_axes)
  axes = () if feature_axes is None else tuple(feature_axes)
  rank = jnp.ndim(leaf)
  where = f'{jax.tree_util.keystr(key_path)!r} of shape {jnp.shape(leaf)}'
  if any(not -rank <= axis < rank for axis in axes):
    raise ValueError(
      f'feature_axes {axes} are out of range for the leaf {where}.'
    )
  features = {axis % rank for axis in axes}
  if len(features) != len(axes):
    raise ValueError(f'feature_axes {axes} name an axis of {where} twice.')
  return tuple(axis for axis in range(rank) if axis not in features)


def _check_axes(axes: Any) -> None:
  is_known = axes is None or (
    isinstance(axes, Sequence)
    and all(isinstance(axis, numbers.Integral) for axis in axes)
  )
  if not is_known:
    raise ValueError(
      'feature_axes must be a tuple of whole numbers, such as (-1,), a '
      f'function (key_path, leaf) -> axes, or None; got {axes!r}.'
    )


class AddConnectionPenaltyState(NamedTuple):
  """State of `add_connection_penalty` with a schedule.

  Attributes:
    count: Steps so far, int32.
  """

  count: ArrayLike


def add_connection_penalty(
  penalty: optax.ScalarOrSchedule,
  *,
  derivative: Callable[[jax.Array], jax.Array] | None = None,
) -> optax.GradientTransformation:
  """Adds λ s'(m), the gradient of λ · (number of connections), to the updates.

  As with decoupled weight decay, its place in the chain matters: after a
  normaliser λ is the same price for every connection, whatever the scale of the
  loss.

  Args:
    penalty: λ, the price of one connection; a number, an array or a schedule.
    derivative: s', the straight-through estimator's derivative, a function from
      `scl_jax.ste` say; `None` is the identity estimator, s' = 1.

  Returns:
    An `optax.GradientTransformation`.

  Raises:
    ValueError: If λ is negative or not finite, or `derivative` no function; at
      `update`, if `params` (the mask variables) are missing. What is traced or
      a schedule is not checked.

  Example:
    >>> tx = add_connection_penalty(0.5)
    >>> m = jnp.array([0.3, -0.3])
    >>> tx.update(jnp.zeros(2), tx.init(m), m)[0]
    Array([0.5, 0.5], dtype=float32)
  """
  if not callable(penalty):
    _check('penalty', penalty, _is_positive_or_0, 'finite and >= 0')
  if derivative is not None and not callable(derivative):
    raise ValueError(
      'derivative must be a function m -> derivative, such as '
      f'scl_jax.ste.softplus; got {derivative!r}.'
    )

  def init_fn(params):
    del params
    if callable(penalty):
      return AddConnectionPenaltyState(jnp.zeros((), jnp.int32))
    return optax.EmptyState()

  def update_fn(updates, state, params=None):
    if params is None:
      raise ValueError(_NO_PARAMS)
    price = penalty(state.count) if callable(penalty) else penalty

    def add(g, m):
      slope = 1.0 if derivative is None else derivative(m)
      return (g + price * slope).astype(g.dtype)

    updates = jax.tree.map(add, updates, params)
    if callable(penalty):
      state = AddConnectionPenaltyState(optax.safe_increment(state.count))
    return updates, state

  return optax.GradientTransformation(init_fn, update_fn)


def keep_params_in_box(bound: ArrayLike) -> optax.GradientTransformation:
  """Changes the updates so that params + updates stays within ±bound.

  It belongs at the end of a chain. A box gives the mask variables a bounded
  memory: without one |m| grows without limit, and a change of mind takes ever
  longer. `bound / learning_rate` is the memory in steps at unit gradient.

  Args:
    bound: Positive.

  Returns:
    An `optax.GradientTransformation`.

  Raises:
    ValueError: If `bound` is not positive; at `update`, if `params` (the mask
      variables) are missing.

  Example:
    >>> tx = keep_params_in_box(0.5)
    >>> m = jnp.array([0.25, -0.25])
    >>> tx.update(jnp.array([1.0, 0.125]), tx.init(m), m)[0]
    Array([0.25 , 0.125], dtype=float32)
  """
  _check('bound', bound, lambda x: x > 0, '> 0')

  def update_fn(updates, state, params=None):
    if params is None:
      raise ValueError(_NO_PARAMS)
    low = jnp.negative(bound)
    updates = jax.tree.map(
      lambda u, p: (jnp.clip(p + u, low, bound) - p).astype(u.dtype),
      updates,
      params,
    )
    return updates, state

  return optax.GradientTransformation(optax.init_empty_state, update_fn)


def _is_positive_or_0(value: np.ndarray) -> np.ndarray:
  return np.isfinite(value) & (value >= 0)


def _check(
  name: str, value: Any, is_good: Callable[[Any], Any], expected: str
) -> None:
  """Raises unless numbers are in a range; those that are traced may be."""
  if isinstance(value, core.Tracer):
    return
  known = np.asarray(value)
  is_number = known.dtype.kind not in 'OSU'  # bfloat16 has a kind of its own
  if not is_number or not np.all(is_good(known.astype(float))):
    raise ValueError(f'{name} must be {expected}, got {value!r}.')
