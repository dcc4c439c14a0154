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
"""A density over all leaves, or one for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import control
from scl_jax import distributions
from scl_jax import metrics
from scl_jax import patterns
from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax.targets import target
from scl_jax.targets.target import Target

PyTree = tree_lib.PyTree


def of_density(
  density: ArrayLike, *, num_steps: int, ramp_steps: ArrayLike
) -> Target:
  """The share of all prunable connections.

  Args:
    density: In (0, 1].
    num_steps: The steps until the cut.
    ramp_steps: When the controller's goal reaches the target.

  Returns:
    A `Target`, whose budget is a number of connections, int32.
  """

  def init(weights, mask_params):
    chosen = tree_lib.keep_where(weights, mask_params)
    total = sum(w.size for w in jax.tree.leaves(chosen))
    budget = distributions.number_at(density, total)
    _check_reachable(density, budget, chosen, mask_params, 'all layers')
    state = control.init_control(density, total=float(total))
    return state, jnp.asarray(budget, jnp.int32)

  def price(state, count, gradients, masks, sizes):
    return control.update_control(
      control.measure_scale(state, gradients),
      count,
      metrics.variable_density(masks, sizes, state.total),
      num_steps=num_steps,
      ramp_steps=ramp_steps,
      aim=target.AIM,
    )

  def charges(penalty, gradients):
    return jax.tree.map(lambda _: penalty, gradients)

  def cut(mask_params, sizes, budget, when):
    threshold = thresholding.find_threshold(
      mask_params, budget, costs=sizes, when=when
    )
    return target.open_where(
      thresholding.above(mask_params, threshold), mask_params
    )

  return Target(init, price, charges, cut)


def of_layers(
  densities: Mapping[str, ArrayLike], *, num_steps: int, ramp_steps: ArrayLike
) -> Target:
  """The share of the connections of each prunable leaf.

  Args:
    densities: From regular expressions, matched against whole paths, to
      densities in (0, 1]; the first match wins, and each prunable leaf needs
      one.
    num_steps: The steps until the cut.
    ramp_steps: When the controller's goals reach the targets.

  Returns:
    A `Target`.
  """
  # What is done to all leaves for one density is done here to each.
  one = of_density(1.0, num_steps=num_steps, ramp_steps=ramp_steps)

  def init(weights, mask_params):
    density_of = _densities_of(densities, weights, mask_params)

    def init_leaf(path, m, w):
      density = density_of[path]
      budget = distributions.number_at(density, w.size)
      _check_reachable(density, budget, {path: w}, {path: m}, repr(path))
      # Where there is no connection nothing can be closed.
      state = control.init_control(
        density if w.size else 1.0, total=float(w.size)
      )
      return state, jnp.asarray(budget, jnp.int32)

    treedef = jax.tree.structure(mask_params)
    rows = tree_lib.zip_leaves(
      mask_params, tree_lib.keep_where(weights, mask_params)
    )
    states, budgets = zip(*(init_leaf(*row) for row in rows), strict=True)
    return _of_trees(treedef, states), treedef.unflatten(budgets)

  def price(state, count, gradients, masks, sizes):
    state = control.measure_scale(state, gradients)
    leaves, treedef = jax.tree.flatten(masks)
    of_leaves = map(control.ControlState, *map(treedef.flatten_up_to, state))
    penalties, states = zip(
      *(
        control.update_control(
          of_leaf,
          count,
          metrics.variable_density(m, n, of_leaf.total),
          num_steps=num_steps,
          ramp_steps=ramp_steps,
          aim=target.AIM,
        )
        for m, n, of_leaf in zip(
          leaves, treedef.flatten_up_to(sizes), of_leaves, strict=True
        )
      ),
      strict=True,
    )
    return treedef.unflatten(penalties), _of_trees(treedef, states)

  def charges(penalty, gradients):
    del gradients
    return penalty

  def cut(mask_params, sizes, budget, when):
    return jax.tree.map(
      lambda m, n, most: one.cut(m, n, most, when), mask_params, sizes, budget
    )

  return Target(init, price, charges, cut)


def _densities_of(
  densities: Mapping[str, ArrayLike], weights: PyTree, mask_params: PyTree
) -> dict[str, ArrayLike]:
  """The density of each path; raises unless patterns and leaves fit."""
  paths = tree_lib.paths(mask_params)
  patterns.check_matches(
    'target_density', densities, paths, others=tree_lib.paths(weights)
  )
  found = {path: patterns.look_up(densities, path) for path in paths}
  rest = [path for path, density in found.items() if density is None]
  if rest:
    raise ValueError(
      'target_density must name every prunable leaf. Give the others a density '
      "too (a last pattern '.*' takes all that is left), or leave them dense "
      f'with prunable=. It does not name:\n{tree_lib.listing(rest)}'
    )
  return {path: d for path, d in found.items() if d is not None}


def _check_reachable(
  density: ArrayLike,
  budget: ArrayLike,
  weights: PyTree,
  mask_params: PyTree,
  where: str,
) -> None:
  distributions.check_countable(density, budget, weights)
  distributions.check_reachable(
    density,
    budget,
    sum(w.size for w in jax.tree.leaves(weights)),
    smallest=target.smallest_size(target.sizes_of(weights, mask_params)),
    where=where,
  )


def _of_trees(
  treedef: Any, states: Sequence[control.ControlState]
) -> control.ControlState:
  """The states of all leaves as one, whose fields are trees."""
  fields = zip(*states, strict=True)
  return control.ControlState(*map(treedef.unflatten, fields))
