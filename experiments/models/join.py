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
"""The sum of a branch and a shortcut, as a module that can be seen."""

from flax import linen as nn
import jax
import jax.numpy as jnp


class Join(nn.Module):
  """Branch + shortcut.

  It has no parameters. Where the variables hold a collection `'gates'` with an
  entry for it, that closes channels of the shortcut, as pruning may want.
  """

  @nn.compact
  def __call__(self, branch: jax.Array, shortcut: jax.Array) -> jax.Array:
    """Adds arrays of one shape [..., channels]."""
    if self.has_variable('gates', 'shortcut'):
      gate = self.get_variable('gates', 'shortcut')
      shortcut = jnp.where(gate > 0, shortcut, 0)
    return branch + shortcut
