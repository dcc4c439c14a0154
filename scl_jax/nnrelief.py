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
"""NNrelief: pruning by neural activity (arXiv 2109.10795), on arrays.

Of each unit the fewest connections are kept that carry the share α of what
comes into it (`scl_jax.activity`). Then, backwards, a unit that nobody reads
loses what comes into it.

The functions here are jittable and know of no framework; what follows whom in a
model is given to `backward_sweep` as arrays. Masks are to be trained under by
`scl_jax.sparsify`.

The default is the rule of the paper. The authors' code (adekhovich/NNrelief)
differs from it in two places, which are options: `cut` of `keep_share` and
`norm` of `scl_jax.activity.conv_scores`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import checks
from scl_jax.activity import Incoming

Cut = Literal['paper', 'released']


def keep_share(
  scores: Incoming, alpha: ArrayLike, *, cut: Cut = 'paper'
) -> Incoming:
  """Masks of the fewest connections that carry a share of a unit's input.

  With the scores of a unit in falling order and p the first position at which
  their sum reaches α, all that is not below the p-th is kept. So α = 1 cuts
  what has the score 0 and nothing else.

  Args:
    scores: From `activity.dense_scores` or `activity.conv_scores`.
    alpha: α, the share to keep, in (0, 1].
    cut: `'paper'` is the rule above. `'released'`, that of the authors' code,
      keeps what is above the entry that follows the p-th, or above the last if
      there is none: it also cuts what ties with that entry, and never keeps all
      connections of a unit.

  Returns:
    Masks, float32; all 0 for a unit whose scores are all 0. Where scores cannot
    be looked at, under `jax.jit`, a unit of which one is not finite has masks
    of NaN.

  Raises:
    ValueError: If α is out of range, `cut` unknown, a unit has no input, the
      shapes do not fit or a score is not finite.

  Example:
    >>> scores = Incoming(jnp.array([[0.5], [0.1], [0.4]]), None)
    >>> keep_share(scores, 0.8).kernel.ravel()
    Array([1., 0., 1.], dtype=float32)
  """
  checks.check_scalar('alpha', alpha, lambda a: 0 < a <= 1, 'in (0, 1]')
  scores = _checked('scores', scores)
  everything = scores.kernel
  if scores.bias is not None:
    everything = jnp.concatenate([everything, scores.bias[None]])
  checks.check_finite('scores', everything)
  if not len(everything):
    raise ValueError(f'scores has no inputs: its kernel is {everything.shape}.')
  rising = jnp.sort(everything, axis=0)
  if cut == 'paper':
    # What is before an entry has less than α, so it and what follows more than
    # 1 - α. Small numbers are added first: at α = 1 none is lost to rounding.
    tails = jnp.cumsum(rising, axis=0)
    kept = tails > (1 - alpha) * tails[-1:]
    lowest = jnp.where(kept, rising, jnp.inf).min(axis=0, keepdims=True)
    keep = everything >= lowest
  elif cut == 'released':
    falling = rising[::-1]
    sums = jnp.cumsum(falling, axis=0)
    limit = alpha * everything.sum(axis=0, keepdims=True)
    before = (sums < limit).sum(axis=0, keepdims=True)
    following = jnp.minimum(before + 1, len(falling) - 1)
    keep = everything > jnp.take_along_axis(falling, following, axis=0)
  else:
    raise ValueError(f"cut must be 'paper' or 'released', got {cut!r}.")
  # Else comparisons with NaN would close all of the unit, unnoticed.
  is_known = jnp.isfinite(everything).all(axis=0, keepdims=True)
  masks = jnp.where(is_known, keep.astype(jnp.float32), jnp.nan)
  if scores.bias is None:
    return Incoming(masks, None)
  return Incoming(masks[:-1], masks[-1])


def join_masks(
  branch: ArrayLike, shortcut: ArrayLike, alpha: ArrayLike
) -> Incoming:
  r"""Masks of the two sides of a residual join, for each channel.

  With :math:`A = \| E|branch| \|` and :math:`B = \| E|shortcut| \|`, the mean
  over examples and the norm over positions, the branch is cut where
  :math:`A < (1-\alpha)(A+B)` and the shortcut where
  :math:`B < (1-\alpha)(A+B)`.

  Args:
    branch: One summand, [examples, *spatial, channels].
    shortcut: The other, of the same shape.
    alpha: α, in (0, 1].

  Returns:
    Masks of the sum as a layer whose inputs are the channels of the branch and
    then those of the shortcut: a kernel [2 channels, channels]. Where values
    cannot be looked at, under `jax.jit`, channels that are not finite have
    masks of NaN.

  Raises:
    ValueError: If the shapes differ, there is no example, α is out of range or
      a side is not finite.
  """
  checks.check_scalar('alpha', alpha, lambda a: 0 < a <= 1, 'in (0, 1]')
  branch, shortcut = (
    jnp.asarray(side).astype(jnp.float32) for side in (branch, shortcut)
  )
  if branch.shape != shortcut.shape:
    raise ValueError(
      f'branch and shortcut must have one shape, got {branch.shape} and '
      f'{shortcut.shape}.'
    )
  if branch.ndim < 2 or not len(branch):
    raise ValueError(
      'branch and shortcut must be [examples, *spatial, channels], with an '
      f'example or more; got {branch.shape}.'
    )
  checks.check_finite('branch', branch)
  checks.check_finite('shortcut', shortcut)
  # Only ratios matter; squares of what is at most 1 do not overflow.
  axes = tuple(range(branch.ndim - 1))
  largest = jnp.maximum(
    *(jnp.abs(s).max(axes, keepdims=True) for s in (branch, shortcut))
  )
  largest = jnp.where(largest == 0, 1, largest)
  sides = []
  for side in (branch, shortcut):
    mean = jnp.mean(jnp.abs(side) / largest, axis=0).reshape(-1, side.shape[-1])
    sides.append(jnp.linalg.norm(mean, axis=0))
  total = sides[0] + sides[1]
  masks = [
    jnp.where(
      jnp.isfinite(total),
      (s >= (1 - alpha) * total).astype(jnp.float32),
      jnp.nan,
    )
    for s in sides
  ]
  return Incoming(jnp.concatenate([jnp.diag(mask) for mask in masks]), None)


def remove_units(masks: Incoming, keep: ArrayLike) -> Incoming:
  """Closes all that comes into the units that are not kept.

  Args:
    masks: Masks of a layer.
    keep: Which units stay, bool [units].

  Returns:
    The masks, 0 at the inputs and the bias of the others.

  Raises:
    ValueError: If the shapes do not fit, or `keep` is not of bools.

  Example:
    >>> remove_units(Incoming(jnp.ones((2, 2)), None), [True, False]).kernel
    Array([[1., 0.],
           [1., 0.]], dtype=float32)
  """
  masks = _checked('masks', masks)
  keep = _bools('keep', keep, masks.kernel.shape[1:])
  factor = keep.astype(masks.kernel.dtype)
  return Incoming(
    masks.kernel * factor[None],
    None if masks.bias is None else masks.bias * factor,
  )


def backward_sweep(
  masks: Mapping[str, Incoming],
  feeds: Mapping[tuple[str, str], ArrayLike],
  in_output: Mapping[str, ArrayLike],
) -> tuple[dict[str, Incoming], dict[str, jax.Array]]:
  """Closes, from the last layer to the first, what comes into unread units.

  A unit is read if an input that it feeds has a live connection, or the model's
  output contains it. What the model computes does not change.

  Args:
    masks: The masks of each layer, in the order of their calls.
    feeds: For pairs (layer, later layer), which units of the first are which
      inputs of the second, bool [units, inputs].
    in_output: Which units the model's output contains, bool [units]; none of a
      layer that is missing.

  Returns:
    The masks after the sweep, and which units of each layer are read.

  Raises:
    ValueError: If a pair names an unknown layer or not an earlier one first,
      `in_output` an unknown one, or shapes or dtypes do not fit.

  Example:
    >>> masks = {
    ...   'first': Incoming(jnp.ones((1, 2)), jnp.ones(2)),
    ...   'last': Incoming(jnp.array([[1.0], [0.0]]), None),
    ... }
    >>> feeds = {('first', 'last'): jnp.eye(2, dtype=bool)}
    >>> swept, read = backward_sweep(masks, feeds, {'last': [True]})
    >>> swept['first']
    Incoming(kernel=Array([[1., 0.]], dtype=float32), \
bias=Array([1., 0.], dtype=float32))
  """
  names = list(masks)
  for pair in feeds:
    if not set(pair) <= set(names) or names.index(pair[0]) >= names.index(
      pair[1]
    ):
      raise ValueError(
        f'feeds holds {pair}, but must hold pairs (layer, later layer) of '
        f'{names}, in this order.'
      )
  unknown = set(in_output) - set(names)
  if unknown:
    raise ValueError(
      f'in_output names {sorted(unknown)}, but the layers are {names}.'
    )
  swept = {n: _checked(f'masks[{n!r}]', layer) for n, layer in masks.items()}
  sizes = {name: layer.kernel.shape for name, layer in swept.items()}
  matrices = {
    pair: _bools(
      f'feeds[{pair}]', matrix, (sizes[pair[0]][1], sizes[pair[1]][0])
    )
    for pair, matrix in feeds.items()
  }
  read = {}
  for name in reversed(names):
    units = sizes[name][1:]
    read[name] = _bools(
      f'in_output[{name!r}]', in_output.get(name, jnp.zeros(units, bool)), units
    )
    for (source, target), matrix in matrices.items():
      if source == name:
        live = jnp.any(swept[target].kernel != 0, axis=1)
        read[name] |= jnp.any(matrix & live[None], axis=1)
    swept[name] = remove_units(swept[name], read[name])
  return swept, read


def _checked(name: str, incoming: Any) -> Incoming:
  """Kernel and bias as arrays whose shapes fit; a plain pair will do."""
  if not isinstance(incoming, tuple) or len(incoming) != 2:
    raise ValueError(
      f'{name} must be an Incoming, kernel [inputs, units] and bias [units] or '
      f'None; got {type(incoming).__name__}.'
    )
  kernel, bias = incoming
  kernel = jnp.asarray(kernel)
  bias = None if bias is None else jnp.asarray(bias)
  if kernel.ndim != 2 or (bias is not None and bias.shape != kernel.shape[1:]):
    raise ValueError(
      f'{name} must have a kernel [inputs, units] and a bias [units] or None; '
      f'got {kernel.shape} and {None if bias is None else bias.shape}.'
    )
  return Incoming(kernel, bias)


def _bools(name: str, value: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
  array = jnp.asarray(value)
  if array.shape != shape or array.dtype != bool:
    raise ValueError(
      f'{name} must be bool {shape}, got {array.dtype} {array.shape}.'
    )
  return array
