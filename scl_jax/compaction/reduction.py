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
"""A function with fewer params, for inputs of any shape that allows it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import core
import jax.numpy as jnp
import numpy as np

from scl_jax import tree as tree_lib
from scl_jax.compaction import planning
from scl_jax.compaction import running
from scl_jax.graph import labelling
from scl_jax.graph import nodes

PyTree = tree_lib.PyTree


class Reduction:
  """A smaller version of `fn(params, *inputs)`, to be called like it.

  What goes is decided once, with the example inputs. For inputs of other shapes
  or dtypes `fn` is traced again and the same choice proved for that trace. In
  other dtypes constants are rounded in other ways, which may undo the proof: it
  then has to hold in the given dtypes, for inputs of these shapes.

  Attributes:
    fn: The original.
    params: Its params, on the host.
    small_params: Those of the smaller version.
    kept: For each leaf and axis, the indices that are kept.
    folds: What was added to leaves, by position, in the original shapes.
    paths: The leaves' paths.
  """

  def __init__(
    self,
    fn: Callable[..., Any],
    params: PyTree,
    masks: PyTree,
    inputs: Sequence[Any],
    drop_inputs: bool,
  ):
    """Decides what goes.

    Args:
      fn: Any function `fn(params, *inputs)`.
      params: Its params, masks applied.
      masks: The masks; a masked leaf takes up no constants, as its mask would
        then no longer fit.
      inputs: Example inputs.
      drop_inputs: Whether to take only the parts of inputs that are used.
    """
    self.fn = fn
    self._drop_inputs = drop_inputs
    self.params = jax.tree.map(np.asarray, params)
    self._leaves, self._treedef = jax.tree.flatten(self.params)
    rows = tree_lib.zip_leaves(params, masks)
    self.paths = [path for path, _, _ in rows]
    self._foldable = [
      mask is None and tree_lib.is_weight(leaf) for _, leaf, mask in rows
    ]
    self._plans: dict[Any, planning.Plan] = {}

    specs = specs_of(self._leaves)
    self._input_dtypes = jax.tree.map(lambda spec: spec.dtype, specs_of(inputs))
    plans = []
    for first in (True, False):
      labelled = self._label(specs, specs_of(inputs), first)
      plans.append(planning.make(labelled, self._leaves, self._foldable))
      if not labelled.had_choice:
        break
    self._prefer_first = len(plans) == 1 or _size(plans[0]) <= _size(plans[1])
    plan = plans[0 if self._prefer_first else 1]
    self.kept, self.folds = plan.kept, plan.folds
    self.small_params = self.shrink(plan, self._leaves)
    self._remember(_key(specs, specs_of(inputs)), plan)

  def __call__(self, params: PyTree, *inputs: Any) -> Any:
    """What `fn` returns, from small params.

    Args:
      params: A tree like `small_params`.
      *inputs: As `fn` takes them.

    Returns:
      The same as `fn`.

    Raises:
      ValueError: If params do not fit, or removed features would matter.
    """
    leaves, treedef = jax.tree.flatten(params)
    if treedef != self._treedef:
      raise ValueError(
        'params must have the structure of the compact model; got '
        f'{treedef}, expected {self._treedef}.'
      )
    specs = specs_of(leaves)
    for path, spec, kept in zip(self.paths, specs, self.kept, strict=True):
      shape = tuple(len(indices) for indices in kept)
      if spec.shape != shape:
        raise ValueError(
          f'params must have the shapes of the compact model: {path!r} is '
          f'{spec.shape}, expected {shape}.'
        )
    plan = self.plan([spec.dtype for spec in specs], inputs)
    return running.run(plan, leaves, jax.tree.leaves(inputs))

  def plan(self, dtypes: Sequence[Any], inputs: Sequence[Any]) -> planning.Plan:
    """The plan for params and inputs of these dtypes and shapes.

    Args:
      dtypes: The dtype of each leaf of params.
      inputs: Arrays or shapes.

    Returns:
      The plan.

    Raises:
      ValueError: If removed features would matter.
    """
    specs, input_specs = self._specs(dtypes), specs_of(inputs)
    key = _key(specs, input_specs)
    if key in self._plans:
      return self._plans[key]
    try:
      return self.prove(dtypes, inputs)
    except ValueError:
      given = _like(input_specs, self._input_dtypes)
      given_dtypes = [leaf.dtype for leaf in self._leaves]
      if given is None or _key(self._specs(given_dtypes), given) == key:
        raise
      self.plan(given_dtypes, given)
    labelled = self._label(specs, input_specs, self._prefer_first)
    plan = planning.follow(labelled, self.kept)
    self._remember(key, plan)
    return plan

  def prove(
    self, dtypes: Sequence[Any], inputs: Sequence[Any]
  ) -> planning.Plan:
    """The plan, proved with the values that constants have in these dtypes.

    Args:
      dtypes: The dtype of each leaf of params.
      inputs: Arrays or shapes.

    Returns:
      The plan.

    Raises:
      ValueError: If removed features would matter.
    """
    specs, input_specs = self._specs(dtypes), specs_of(inputs)
    labelled = self._label(specs, input_specs, self._prefer_first)
    leaves = [
      leaf.astype(spec.dtype)
      for leaf, spec in zip(self._leaves, specs, strict=True)
    ]
    plan = planning.make(labelled, leaves, self._foldable, self.kept)
    self._check_folds(plan, dtypes)
    self._remember(_key(specs, input_specs), plan)
    return plan

  def shrink(self, plan: planning.Plan, leaves: Sequence[np.ndarray]) -> PyTree:
    """The kept entries of params, with what the plan folds into them.

    Args:
      plan: From `plan`.
      leaves: The original leaves, of any dtype.

    Returns:
      A tree like params.
    """
    small = []
    for index, (leaf, kept) in enumerate(zip(leaves, plan.kept, strict=True)):
      if index in plan.folds:
        leaf = (leaf + plan.folds[index]).astype(leaf.dtype)
      small.append(jax.device_put(leaf[np.ix_(*kept)] if kept else leaf))
    return jax.tree.unflatten(self._treedef, small)

  def _specs(self, dtypes: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [
      jax.ShapeDtypeStruct(leaf.shape, dtype)
      for leaf, dtype in zip(self._leaves, dtypes, strict=True)
    ]

  def _label(self, specs, input_specs, prefer_first) -> labelling.Labelled:
    params = jax.tree.unflatten(self._treedef, specs)
    graph = nodes.trace(self.fn, params, *input_specs)
    if self._drop_inputs:
      graph = nodes.take_parts(graph)
    return labelling.label(graph, prefer_first=prefer_first)

  def _remember(self, key: Any, plan: planning.Plan) -> None:
    """Keeps a plan, unless `fn` captured tracers, which do not live on."""
    constants = plan.labelled.body.graph.constants.values()
    if not any(isinstance(value, core.Tracer) for value in constants):
      self._plans[key] = plan

  def _check_folds(self, plan: planning.Plan, dtypes: Sequence[Any]) -> None:
    # In other dtypes constants are rounded in other ways.
    eps = [
      0.0 if dtype == leaf.dtype else float(jnp.finfo(d).eps)
      for leaf, dtype in zip(self._leaves, dtypes, strict=True)
      for d in (leaf.dtype, dtype)
      if jnp.issubdtype(d, jnp.floating)
    ]
    tolerance = max(1e-5, 2 * max(eps, default=0.0))
    for index, path in enumerate(self.paths):
      ours = self.folds.get(index, np.zeros(()))
      theirs = plan.folds.get(index, np.zeros(()))
      size = max(np.abs(ours).max(initial=0), np.abs(theirs).max(initial=0))
      if not np.abs(ours - theirs).max(initial=0) <= tolerance * size:
        raise ValueError(
          f'For inputs of these shapes other constants belong into {path!r}: '
          'compact the model again with such inputs.'
        )


def specs_of(tree: Any) -> Any:
  """Shapes and dtypes of a tree of arrays, tracers and numbers."""
  return jax.eval_shape(lambda x: x, tree)


def _like(specs: Any, dtypes: Any) -> Any:
  """Specs of these dtypes; `None` if the trees do not fit."""
  leaves, treedef = jax.tree.flatten(specs)
  if treedef != jax.tree.structure(dtypes):
    return None
  return treedef.unflatten(
    jax.ShapeDtypeStruct(spec.shape, dtype)
    for spec, dtype in zip(leaves, jax.tree.leaves(dtypes), strict=True)
  )


def _size(plan: planning.Plan) -> int:
  return sum(
    int(np.prod([len(indices) for indices in axes])) for axes in plan.kept
  )


def _key(specs: Sequence[Any], inputs: Any) -> Any:
  leaves, treedef = jax.tree.flatten(inputs)
  dtypes = tuple(spec.dtype for spec in specs)
  shapes = tuple((x.shape, x.dtype, x.weak_type) for x in leaves)
  return dtypes, treedef, shapes, jax.dtypes.canonicalize_dtype(np.float64)
