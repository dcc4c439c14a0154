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
"""A share of the dense network's multiply-accumulates."""

from collections.abc import Mapping
import math

import jax
from jax import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import control
from scl_jax import metrics
from scl_jax import thresholding
from scl_jax import tree as tree_lib
from scl_jax import wide
from scl_jax.targets import target
from scl_jax.targets.target import Target

PyTree = tree_lib.PyTree


def of_macs(
  share: ArrayLike, costs: PyTree, *, num_steps: int, ramp_steps: ArrayLike
) -> Target:
  """The share of the MACs of the dense network.

  Layers that are not prunable are dense and count as such.

  Args:
    share: In (0, 1].
    costs: The MACs of a connection of each leaf, as `scl_jax.costs` gives them.
    num_steps: The steps until the cut.
    ramp_steps: When the controller's goal reaches the target.

  Returns:
    A `Target`. The control state has the share of the prunable MACs; the budget
    is a `wide.Wide`, in units of a MAC if all costs are whole numbers.
  """
  macs = _macs_of_leaves(costs)

  def plan(mask_params, sizes):
    """Rates in whole units, the unit, and the units of each leaf."""
    each = tree_lib.map_with_path(lambda path, _: macs[path], mask_params)
    values = jax.tree.leaves(each)
    is_whole = all(c == int(c) for c in values) and max(values) < 2**32
    # Else half of the unit, times all connections, is below one of the dearest.
    unit = 1.0 if is_whole else max(values) / 2**31
    rates = jax.tree.map(lambda c: max(1, round(c / unit)), each)
    totals = jax.tree.map(
      lambda m, n, rate: rate * int(np.broadcast_to(n, m.shape).sum()),
      mask_params,
      sizes,
      rates,
    )
    return rates, unit, totals

  def init(weights, mask_params):
    _check_costs(macs, weights, mask_params)
    sizes = target.sizes_of(weights, mask_params)
    rates, unit, totals = plan(mask_params, sizes)
    prunable_macs = sum(jax.tree.leaves(totals))
    kept_macs = round(
      sum(
        macs[path] * w.size
        for path, w, m in tree_lib.zip_leaves(weights, mask_params)
        if m is None
      )
      / unit
    )
    dense_macs = prunable_macs + kept_macs
    if isinstance(share, core.Tracer):
      budget = wide.minus(
        wide.from_float(share * jnp.float32(dense_macs)),
        wide.from_int(kept_macs),
      )
      spare = share * float(dense_macs) - float(kept_macs)
      goal = jnp.maximum(spare, 1.0) / float(prunable_macs)
      return control.init_control(goal, total=float(prunable_macs)), budget
    spare = round(float(np.asarray(share)) * dense_macs) - kept_macs
    cheapest = target.smallest_size(sizes, rates)
    if spare < cheapest:
      raise ValueError(
        f'target_macs={share} cannot be reached: layers that are not prunable '
        f'hold {kept_macs / dense_macs:.4g} of the MACs, and one connection '
        f'more makes {(kept_macs + cheapest) / dense_macs:.4g}. Ask for more, '
        'or make more layers prunable.'
      )
    state = control.init_control(
      spare / prunable_macs, total=float(prunable_macs)
    )
    return state, wide.from_int(spare)

  def price(state, count, gradients, masks, sizes):
    _, _, totals = plan(masks, sizes)
    live = jax.tree.map(
      lambda m, n, macs: (
        metrics.variable_density(m, n) * (float(macs) / state.total)
      ),
      masks,
      sizes,
      totals,
    )
    return control.update_control(
      control.measure_scale(state, gradients),
      count,
      sum(jax.tree.leaves(live)),
      num_steps=num_steps,
      ramp_steps=ramp_steps,
      aim=target.AIM,
    )

  def charges(penalty, gradients):
    ones = jax.tree.map(lambda _: np.ones((), int), gradients)
    rates, _, totals = plan(gradients, ones)
    pairs = list(
      zip(jax.tree.leaves(rates), jax.tree.leaves(totals), strict=True)
    )
    typical = sum(r * t for r, t in pairs) / sum(t for _, t in pairs)
    return jax.tree.map(lambda rate: penalty * (rate / typical), rates)

  def cut(mask_params, sizes, budget, when):
    rates, _, _ = plan(mask_params, sizes)
    threshold = thresholding.find_threshold(
      mask_params,
      budget,
      costs=sizes,
      rates=jax.tree.map(np.uint32, rates),
      when=when,
    )
    return target.open_where(
      thresholding.above(mask_params, threshold), mask_params
    )

  return Target(init, price, charges, cut)


def _macs_of_leaves(costs: PyTree) -> dict[str, float]:
  macs = {}
  for path, cost in tree_lib.zip_leaves(costs):
    is_known = not isinstance(cost, core.Tracer | str)
    if not is_known or np.ndim(cost):
      raise ValueError(
        f'costs must hold one number for each leaf, got {cost!r} for {path!r}.'
      )
    macs[path] = float(cost)
    if not (math.isfinite(macs[path]) and macs[path] >= 0):
      raise ValueError(
        f'costs must be finite and >= 0, got {cost} at {path!r}.'
      )
  return macs


def _check_costs(
  macs: Mapping[str, float], weights: PyTree, mask_params: PyTree
) -> None:
  rows = tree_lib.zip_leaves(weights, mask_params)
  known = [path for path, _, _ in rows]
  missing = [path for path in known if path not in macs]
  unknown = [path for path, c in macs.items() if c and path not in known]
  if missing or unknown:
    raise ValueError(
      'costs must fit the weights, leaf by leaf. Only one of them has:\n'
      f'{tree_lib.listing(missing + unknown)}'
    )
  free = [path for path, _, m in rows if m is not None and not macs[path]]
  if free:
    raise ValueError(
      'costs are 0 at prunable leaves, whose connections target_macs could '
      'never close; leave them out with prunable=. They are:\n'
      f'{tree_lib.listing(free)}'
    )
