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
"""From the arguments of a rule to its target."""

from collections.abc import Mapping
from typing import Any

from jax.typing import ArrayLike

from scl_jax import checks
from scl_jax import patterns
from scl_jax import tree as tree_lib
from scl_jax.targets import density as density_lib
from scl_jax.targets import macs
from scl_jax.targets.target import Densities
from scl_jax.targets.target import Target

PyTree = tree_lib.PyTree


def choose(
  target_density: Densities | None,
  target_macs: ArrayLike | None,
  costs: PyTree | None,
  *,
  freeze_step: int | None,
  ramp: ArrayLike,
) -> Target | None:
  """The target that is asked for, or `None`.

  Args:
    target_density: A density, or one for each pattern of paths; or `None`.
    target_macs: A share of the dense MACs, or `None`.
    costs: The MACs of a connection of each leaf, for `target_macs`.
    freeze_step: The step at which the result is made exact.
    ramp: The share of the steps before it over which the controller's goal
      falls to the target.

  Returns:
    A `Target`, or `None` if neither target is given.

  Raises:
    ValueError: If an argument is out of its range or missing.
  """
  _check(target_density, target_macs, costs, freeze_step)
  if freeze_step is None:
    return None
  ramp_steps = ramp * freeze_step
  if target_macs is not None:
    return macs.of_macs(
      target_macs, costs, num_steps=freeze_step, ramp_steps=ramp_steps
    )
  if isinstance(target_density, Mapping):
    return density_lib.of_layers(
      target_density, num_steps=freeze_step, ramp_steps=ramp_steps
    )
  if target_density is not None:
    return density_lib.of_density(
      target_density, num_steps=freeze_step, ramp_steps=ramp_steps
    )
  return None


def _check(
  target_density: Any, target_macs: Any, costs: Any, freeze_step: Any
) -> None:
  """Raises unless targets are in range and have what they need.

  Args:
    target_density: A density, a mapping of them, or `None`.
    target_macs: A share, or `None`.
    costs: What `target_macs` needs.
    freeze_step: What both need.

  Raises:
    ValueError: Naming the argument.
  """
  name = 'target_macs' if target_density is None else 'target_density'
  if freeze_step is None and (target_density, target_macs) != (None, None):
    raise ValueError(
      f'{name} needs freeze_step, the step at which the result is made exact; '
      'three quarters of the run is a good choice.'
    )
  if (target_macs is None) != (costs is None):
    raise ValueError(
      'target_macs needs costs, the MACs of a connection of each leaf, and '
      'nothing else does; scl_jax.costs(fn, params, *inputs) gives them. Got '
      f'target_macs={target_macs} and costs={costs}.'
    )
  checks.check_density('target_macs', target_macs, or_none=True)
  if not isinstance(target_density, Mapping):
    checks.check_density('target_density', target_density, or_none=True)
    return
  for pattern, density in target_density.items():
    checks.check_density(f'target_density[{pattern!r}]', density)
  patterns.check_patterns('target_density', target_density)
