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
"""Whether masks still move: what `scl_jax.diagnose` needs of the past.

Three scalars of a rule's state. The density is looked at every 16th step, which
costs a sixteenth of a pass over the mask variables.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from scl_jax import branching
from scl_jax import metrics
from scl_jax import tree as tree_lib

EVERY = 16


class MotionState(NamedTuple):
  """What was seen of the masks.

  Attributes:
    start: The value that all mask variables started from, float32.
    density: The density at the last look, float32.
    changed: The last look that found another density than the one before it, as
      a step, int32; -1 if none did.
  """

  start: jax.Array
  density: jax.Array
  changed: jax.Array


def init_motion(start: float) -> MotionState:
  """The state before the first step.

  Args:
    start: The value that all mask variables start from.

  Returns:
    A `MotionState`.
  """
  return MotionState(
    jnp.asarray(start, jnp.float32),
    jnp.asarray(start > 0, jnp.float32),
    jnp.full((), -1, jnp.int32),
  )


def observe(
  state: MotionState,
  count: jax.Array,
  mask_params: tree_lib.PyTree,
  sizes: tree_lib.PyTree,
  end: ArrayLike | None = None,
) -> MotionState:
  """Looks at the masks, if it is time.

  Args:
    state: The state.
    count: The step, from 0.
    mask_params: The mask variables; they are live above 0.
    sizes: How many connections each stands for.
    end: The step from which on masks are set, not trained, and no longer looked
      at; `None` never.

  Returns:
    The new state.
  """

  def look():
    masks = jax.tree.map(lambda m: (m > 0).astype(jnp.float32), mask_params)
    density = metrics.variable_density(masks, sizes)
    return state._replace(
      density=density,
      changed=jnp.where(density == state.density, state.changed, count),
    )

  is_due = count % EVERY == 0
  if end is not None:
    is_due &= count < end
  return branching.cond(is_due, look, lambda: state)
