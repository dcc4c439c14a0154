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
    I <- I + k_i / num_steps e,    λ = scale (I + k_p e)

λ is signed: where the network has become too sparse, connections are paid to
come back. Without that an undershoot never recovers. `scale` is the root mean
square of what λ is added to, and the gain of the integral goes with the length
of the run, so that the same constants serve all networks and runs. Nothing here
knows of a rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import branching

PyTree = Any


class ControlState(NamedTuple):
  """State of the controller.

  Of several controllers, one for each leaf, the fields are trees. (Not a tree
  of states: Flax NNX wants arrays where the leaves are.)

  Attributes:
    target: The density to reach, float32.
    scale: The unit of λ, float32; 0 until it is measured.
    integral: I, the part of λ that remembers, float32.
    density: The density of the last step, float32.
    total: What target and density are shares of, float32. It stays when dead
      features are removed, so that the goal does.
  """

  target: jax.Array
  scale: jax.Array
  integral: jax.Array
  density: jax.Array
  total: jax.Array


def init_control(
  target: ArrayLike, initial: ArrayLike = 0.05, *, total: ArrayLike = 1
) -> ControlState:
  """The state before the first step.

  Args:
    target: The density to reach, in (0, 1].
    initial: The λ to begin with, in units of the scale.
    total: What the density is a share of: all connections, say.

  Returns:
    A `ControlState`.
  """
  return ControlState(
    target=jnp.asarray(target, jnp.float32),
    scale=jnp.zeros((), jnp.float32),
    integral=jnp.asarray(initial, jnp.float32),
    density=jnp.ones((), jnp.float32),
    total=jnp.asarray(total, jnp.float32),
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
    >>> goal_density(5, target=0.25, ramp_steps=10)
    Array(0.5, dtype=float32)
  """
  share = jnp.minimum(1.0, jnp.asarray(count, jnp.float32) / ramp_steps)
  return jnp.asarray(target, jnp.float32) ** share


def measure_scale(
  state: ControlState, gradients: Callable[[], PyTree]
) -> ControlState:
  """Sets the scale to the root mean square of gradients, once.

  Args:
    state: The state: of all leaves, or of each.
    gradients: A function that gives a tree of arrays, to which λ will be added.
      A function, so that other steps need not compute and store them.

  Returns:
    The state, unchanged where it has a scale already.
  """
  scales, treedef = jax.tree.flatten(state.scale)

  def measure():
    parts = treedef.flatten_up_to(gradients())
    return treedef.unflatten(
      jnp.where(scale > 0, scale, _rms(part))
      for scale, part in zip(scales, parts, strict=True)
    )

  is_missing = jnp.any(jnp.stack(scales) == 0)
  scale = branching.cond(is_missing, measure, lambda: state.scale)
  return state._replace(scale=scale)


def _rms(tree: PyTree) -> jax.Array:
  leaves = jax.tree.leaves(tree)
  squares = sum(jnp.sum(jnp.square(g), dtype=jnp.float32) for g in leaves)
  size = float(sum(g.size for g in leaves))  # may be beyond int32
  # Of no gradient any unit will do, but for 0, which would be measured again.
  return jnp.sqrt(squares / size) if size else jnp.ones((), jnp.float32)


def update_control(
  state: ControlState,
  count: ArrayLike,
  density: ArrayLike,
  *,
  num_steps: ArrayLike,
  ramp_steps: ArrayLike,
  proportional: ArrayLike = 0.75,
  integral: ArrayLike = 10.0,
  aim: ArrayLike = 1.0,
) -> tuple[jax.Array, ControlState]:
  """One step of the controller.

  Args:
    state: The state.
    count: The step, from 0.
    density: The density now, in [0, 1].
    num_steps: The steps in all under control.
    ramp_steps: When the goal reaches the target.
    proportional: k_p.
    integral: k_i.
    aim: What the goal is multiplied with.

  Returns:
    The penalty λ, which may be negative, float32, and the new state.
  """
  goal = goal_density(count, state.target, ramp_steps)
  error = jnp.clip(jnp.log(density / aim / goal), -1.0, 1.0)
  total = state.integral + integral / num_steps * error
  penalty = state.scale * (total + proportional * error)
  # The steps may be float64 or int64 where JAX has them.
  state = state._replace(
    integral=jnp.asarray(total, jnp.float32),
    density=jnp.asarray(density, jnp.float32),
  )
  return jnp.asarray(penalty, jnp.float32), state
