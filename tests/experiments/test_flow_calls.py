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

import functools

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


def layers_of(*layers):
  return nn.Sequential(layers)


@pytest.mark.parametrize(
  ('model', 'images', 'message'),
  [
    (
      layers_of(nn.Dense(3), lambda x: (x, x)),
      jnp.ones((2, 4)),
      r'Sequential must return one array.*got \(\(1, 3\), \(1, 3\)\)',
    ),
    (
      layers_of(lambda x, y: x + y, nn.Dense(3)),
      (jnp.ones((2, 4)),) * 2,
      'images must be one array',
    ),
    (layers_of(nn.Dense(3)), jnp.ones((0, 4)), 'images must be one array'),
    (
      layers_of(nn.Dense(3), nn.relu, nn.Dense(2)),
      jnp.ones((2, 5, 4)),
      "'layers_0': A dense layer",
    ),
    (
      layers_of(nn.Conv(4, (3,), padding='CIRCULAR')),
      jnp.ones((2, 8, 2)),
      "'layers_0': padding must be",
    ),
  ],
)
def test_what_is_not_supported(model, images, message):
  ones = jax.tree.map(lambda x: jnp.ones((1, *x.shape[1:])), images)
  if isinstance(images, tuple):
    variables = model.init(jax.random.key(0), *ones)
  else:
    variables = model.init(jax.random.key(0), ones)
  with pytest.raises(ValueError, match=message):
    activity_pruning.prune(model, variables, images, alpha=0.9, conv_alpha=0.9)


def test_shares_and_names_are_checked_without_convolutions_too():
  model, images = layers_of(nn.Dense(3)), jnp.ones((2, 4))
  variables = model.init(jax.random.key(0), images)
  prune = functools.partial(activity_pruning.prune, model, variables, images)
  share = jnp.float32(0.9)  # need not be a float
  prune(alpha=share, conv_alpha=share)
  good = {'alpha': 0.9, 'conv_alpha': 0.9}
  for bad, message in (
    ({'conv_alpha': 7}, 'conv_alpha must be in'),
    ({'alpha': 0.0}, 'alpha must be in'),
    ({'norm': 'q'}, "norm must be .*got 'q'"),
    ({'cut': 'q'}, "cut must be .*got 'q'"),
  ):
    with pytest.raises(ValueError, match=message):
      prune(**{**good, **bad})


def test_weights_that_are_not_finite():
  model, images = layers_of(nn.Dense(3), nn.Dense(2)), jnp.ones((2, 4))
  variables = model.init(jax.random.key(0), images)
  kernel = variables['params']['layers_1']['kernel']
  variables['params']['layers_1']['kernel'] = kernel.at[0, 0].set(jnp.nan)
  with pytest.raises(ValueError, match="'layers_1': its scores must be finite"):
    activity_pruning.prune(model, variables, images, alpha=0.9, conv_alpha=0.9)


def test_statistics_of_the_batch_are_refused_by_position_too():
  model = nn.Sequential([nn.Dense(3), lambda x: nn.BatchNorm()(x, False)])
  images = jnp.ones((2, 4))
  variables = model.init(jax.random.key(0), images)
  with pytest.raises(ValueError, match='use_running_average=False'):
    flow.trace(model, variables, images)
