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
"""A penalty that is driven to a target density.

The density that a fixed penalty leads to is known only afterwards. So λ becomes
the output of a controller with a proportional and an integral part,

    goal_t = target^min(1, t / ramp_steps)
    e = clip(log(density / goal_t), -1, 1)
    I <- I + k_i e,    λ = I + k_p e

λ is signed: where the network has become too sparse, connections are paid to
come back. Without that an undershoot never recovers. Nothing here knows of a
rule: the functions map (state, step, density) to λ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class ControlState(NamedTuple):
  """State of the controller.

  Attributes:
    target: The density to reach, float32.
    integral: I, the part of λ that remembers, float32.
  """

  target: jax.Array
  integral: jax.Array


def init_control(
    target: ArrayLike, penalty: ArrayLike = 0.002
) -> ControlState:
  """The state before the first step.

  Args:
    target: The density to reach, in (0, 1].
    penalty: The λ to begin with.

  Returns:
    A `ControlState`.
  """
  return ControlState(
      jnp.asarray(target, jnp.float32), jnp.asarray(penalty, jnp.float32)
  )


def goal_density(
    count: ArrayLike, target: ArrayLike, ramp_steps: ArrayLike
) -> jax.Array:
  """The density to have at a step: from 1 to the target, in equal ratios.

  Args:
    count: The step, from 0.
    target: The density at the end, in (0, 1].
    ramp_steps: When the target is reached.

  Returns:
    target ** min(1, count / ramp_steps), a float32 scalar.

  Example:
    >>> goal_density(5, target=0.01, ramp_steps=10)
    Array(0.1, dtype=float32)
  """
  share = jnp.minimum(1.0, jnp.asarray(count, jnp.float32) / ramp_steps)
  return jnp.asarray(target, jnp.float32) ** share


def update_control(
    state: ControlState,
    count: ArrayLike,
    density: ArrayLike,
    *,
    ramp_steps: ArrayLike,
    proportional: ArrayLike = 0.03,
    integral: ArrayLike = 1e-4,
) -> tuple[jax.Array, ControlState]:
  """One step of the controller.

  Args:
    state: The state.
    count: The step, from 0.
    density: The density now, in [0, 1].
    ramp_steps: When the goal reaches the target.
    proportional: k_p.
    integral: k_i, a step.

  Returns:
    The penalty λ, which may be negative, and the new state.
  """
  goal = goal_density(count, state.target, ramp_steps)
  error = jnp.clip(jnp.log(density / goal), -1.0, 1.0)
  total = state.integral + integral * error
  return total + proportional * error, state._replace(integral=total)
