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
"""NNrelief sees a call alike, however its arguments are given."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import activity_pruning
from experiments import flow
from experiments.models import join


class Joined(nn.Module):
  """Two summands, of which one is much weaker in each channel."""

  call: str

  @nn.compact
  def __call__(self, x):
    y = nn.Dense(2, use_bias=False, name='b')(x)
    s = nn.Dense(2, use_bias=False, name='s')(x)
    joined = join.Join(name='j')
    match self.call:
      case 'positions':
        x = joined(y, s)
      case 'names':
        x = joined(shortcut=s, branch=y)
      case 'mixed':
        x = joined(y, shortcut=s)
    return nn.Dense(1, use_bias=False, name='last')(x)


@pytest.mark.parametrize('call', ['positions', 'names', 'mixed'])
def test_the_weak_side_of_a_join_is_cut(call):
  model, images = Joined(call), jnp.ones((2, 2))
  kernels = {
    'b': [[1.0, 100.0], [1.0, 100.0]],
    's': [[100.0, 1.0], [100.0, 1.0]],
    'last': [[1.0], [1.0]],
  }
  params = {name: {'kernel': jnp.array(k)} for name, k in kernels.items()}
  pruned = activity_pruning.prune(
    model, {'params': params}, images, alpha=1.0, conv_alpha=0.9
  )
  np.testing.assert_array_equal(pruned.gates['j']['shortcut'], [1, 0])
  np.testing.assert_array_equal(pruned.masks['b']['kernel'], [[0, 1]] * 2)
  np.testing.assert_array_equal(pruned.masks['s']['kernel'], [[1, 0]] * 2)
  params = jax.tree.map(jnp.multiply, params, pruned.masks)
  variables = {'params': params, 'gates': pruned.gates}
  # 404 with the weak sides; without the strong ones 4 would be left.
  np.testing.assert_array_equal(model.apply(variables, images), [[400.0]] * 2)


@pytest.mark.parametrize(
  'call',
  [
    lambda x: nn.BatchNorm()(x, True),
    lambda x: nn.BatchNorm()(use_running_average=True, x=x),
    lambda x: nn.BatchNorm(use_running_average=True)(
      x, use_running_average=None
    ),
  ],
)
def test_every_way_to_ask_for_running_averages(call):
  class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = call(nn.Dense(3)(x))
      return nn.Dense(2)(x)

  model, images = Normalised(), jnp.ones((2, 4))
  variables = model.init(jax.random.key(0), images)
  found = flow.trace(model, variables, images)
  np.testing.assert_array_equal(
    found.norms['Dense_0', 'BatchNorm_0'], np.eye(3, dtype=bool)
  )


def test_statistics_of_the_batch_are_refused_by_position_too():
  model = nn.Sequential([nn.Dense(3), lambda x: nn.BatchNorm()(x, False)])
  images = jnp.ones((2, 4))
  variables = model.init(jax.random.key(0), images)
  with pytest.raises(ValueError, match='use_running_average=False'):
    flow.trace(model, variables, images)
