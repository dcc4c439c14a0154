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
"""The evidence that a smaller model computes the same function."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import differences
from scl_jax import tree as tree_lib
from scl_jax.compaction import reduction
from scl_jax.compaction import widening
from scl_jax.graph import nodes
from scl_jax.macs import costs

PyTree = tree_lib.PyTree


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What compaction removed, and what it changed.

  Attributes:
    removed: For each leaf that lost anything, by its path, the removed indices
      of each axis.
    params_before: Entries of all leaves.
    params_after: Those of the small model.
    macs_before: Multiply-accumulates of the products with params, for the
      example inputs, zeros included (`scl_jax.costs`).
    macs_after: Those of the small model.
    difference64: The largest difference of outputs, relative to the largest
      output or 1, with both models in float64, on the example inputs and on
      random ones; `None` if it was not measured, or there is an operation that
      knows no float64. Constants that went into biases are rounded all the same
      where the function computes in shorter floats by itself, or takes no
      others, or has features that are constant only as these are rounded.
    difference32: Likewise in the dtypes that are given; `None` if not measured.
    rounding: What these dtypes, and shorter ones that the function computes in,
      change in the outputs of the model before, against float64; `None` where
      `difference64` is.
  """

  removed: Mapping[str, tuple[tuple[int, ...], ...]]
  params_before: int
  params_after: int
  macs_before: int
  macs_after: int
  difference64: float | None
  difference32: float | None
  rounding: float | None

  def __str__(self) -> str:
    lines = ['| | before | after | ratio |', '|---|--:|--:|--:|']
    for name, before, after in (
      ('parameters', self.params_before, self.params_after),
      ('MACs of the example', self.macs_before, self.macs_after),
    ):
      ratio = f'{before / after:.2f}' if after else '∞'
      lines.append(f'| {name} | {before:,} | {after:,} | {ratio} |')
    lines.append('')
    for path, axes in self.removed.items():
      counts = ', '.join(
        f'{len(indices)} of axis {axis}'
        for axis, indices in enumerate(axes)
        if indices
      )
      lines.append(f'{path}: {counts}')
    if self.difference32 is None:
      lines.append('Outputs were not compared (verify=False).')
    for difference, kind in (
      (self.difference64, 'float64'),
      (self.difference32, 'the given dtypes'),
    ):
      if difference is not None:
        lines.append(f'Largest difference in {kind}: {difference:.1e}')
    if self.rounding is not None:
      lines.append(f'Rounding of the model before: {self.rounding:.1e}')
    return '\n'.join(lines)


def certify(
  reduced: reduction.Reduction,
  inputs: Sequence[Any],
  tolerance: float | None,
) -> Certificate:
  """Describes a reduction, and measures it.

  Args:
    reduced: The reduction.
    inputs: Example inputs.
    tolerance: The largest accepted difference; `None` to measure none.

  Returns:
    The certificate.

  Raises:
    ArithmeticError: If a difference is larger, or not finite.
  """
  small = reduced.small_params
  removed = {}
  for path, leaf, kept in zip(
    reduced.paths, jax.tree.leaves(reduced.params), reduced.kept, strict=True
  ):
    axes = tuple(
      tuple(np.delete(np.arange(size), indices).tolist())
      for size, indices in zip(leaf.shape, kept, strict=True)
    )
    if any(axes):
      removed[path] = axes
  difference64 = difference32 = rounding = None
  if tolerance is not None:
    difference64, difference32, rounding, is_wide = _differences(
      reduced, inputs
    )
    allowed32 = _allowed(tolerance, rounding)
    for difference, allowed in (
      (difference64 or 0.0, tolerance if is_wide else allowed32),
      (difference32, allowed32),
    ):
      if not difference <= allowed:
        raise ArithmeticError(
          f'The compact model differs by {difference:.1e}, more than the '
          f'tolerance {allowed:.1e}. If the function amplifies rounding that '
          'much, give a larger one; if not, this is a bug in scl_jax.compact.'
        )
  return Certificate(
    removed=removed,
    params_before=_size(reduced.params),
    params_after=_size(small),
    macs_before=_macs(reduced.fn, reduced.params, inputs),
    macs_after=_macs(reduced, small, inputs),
    difference64=difference64,
    difference32=difference32,
    rounding=rounding,
  )


def _allowed(tolerance: float, rounding: float | None) -> float:
  """Two roundings differ by about twice one; float64 has shown the rest."""
  if rounding is None or not math.isfinite(rounding):
    return tolerance
  return max(tolerance, 4 * rounding)


def _differences(
  reduced: reduction.Reduction, inputs: Sequence[Any]
) -> tuple[float | None, float, float | None, bool]:
  """In float64, if that can be measured; in the given dtypes; of these.

  And whether nothing in the two functions is shorter than float64, there.
  """
  cases = [inputs, _random(inputs)]
  before = _outputs(reduced.fn, reduced.params, cases)
  after = _outputs(reduced.__call__, reduced.small_params, cases)
  narrow = _difference(before, after)
  models = _given_float64(reduced, inputs)
  is_wide = models is not None
  if models is None:
    models = [
      (widening.in_float64(nodes.trace(fn, params, *inputs)), params)
      for fn, params in (
        (reduced.fn, reduced.params),
        (reduced.__call__, reduced.small_params),
      )
    ]
  with jax.enable_x64(True):
    wide = [_widen(case) for case in cases]
    try:
      exact, small_exact = (
        _outputs(fn, _widen(params), wide) for fn, params in models
      )
    except (TypeError, ValueError):  # it takes the bits of a number, say
      return None, narrow, None, False
  difference64 = _difference(exact, small_exact)
  return difference64, narrow, _difference(exact, before), is_wide


def _given_float64(
  reduced: reduction.Reduction, inputs: Sequence[Any]
) -> list[tuple[Any, PyTree]] | None:
  """Both functions and their params, if they compute in float64 when given it.

  Nothing, if a function casts down by itself, takes its own dtype alone, or has
  features that are constant only as their dtype rounds them: one that is 0 as
  it underflows, say.
  """
  with jax.enable_x64(True):
    params, wide = _widen(reduced.params), _widen(inputs)
    leaves = jax.tree.leaves(params)
    try:
      graph = nodes.trace(reduced.fn, params, *wide)
      plan = reduced.prove([leaf.dtype for leaf in leaves], wide)
    except Exception:  # the function's own may be of any kind
      return None
    if not widening.is_float64(graph):
      return None
    small = reduced.shrink(plan, leaves)
  return [(reduced.fn, params), (reduced.__call__, small)]


def _outputs(fn: Any, params: PyTree, cases: Sequence[Any]) -> list[np.ndarray]:
  run = jax.jit(fn)
  return [
    np.asarray(leaf).astype(np.complex128)
    for case in cases
    for leaf in jax.tree.leaves(run(params, *case))
  ]


def _difference(
  before: Sequence[np.ndarray], after: Sequence[np.ndarray]
) -> float:
  """The largest, relative to the largest finite output or 1."""
  worst = 0.0
  for a, b in zip(before, after, strict=True):
    gap, size = differences.largest(b, a)
    worst = max(worst, gap / max(1.0, size))
  return worst


def _random(inputs: Sequence[Any]) -> list[Any]:
  """Standard normal arrays like the inputs; whole numbers stay as they are."""
  rng = np.random.default_rng(0)

  def draw(x):
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
      return x
    return jnp.asarray(rng.normal(size=jnp.shape(x)), dtype)

  return jax.tree.map(draw, list(inputs))


def _widen(tree: PyTree) -> PyTree:
  def widen(x):
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.inexact):
      return x
    is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
    return np.asarray(x).astype(np.complex128 if is_complex else np.float64)

  return jax.tree.map(widen, tree)


def _size(params: PyTree) -> int:
  return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))


def _macs(fn: Any, params: PyTree, inputs: Sequence[Any]) -> int:
  rows = tree_lib.zip_leaves(params, costs(fn, params, *inputs))
  return round(sum(math.prod(jnp.shape(leaf)) * c for _, leaf, c in rows))
