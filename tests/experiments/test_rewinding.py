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
"""The chain of trainings with BatchNorm and a join, and checks before it."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import initial
from experiments import input_pipeline
from experiments import models
from experiments import nnrelief
from experiments import rewinding
from experiments import train
from experiments.configs import mnist_lenet300_nnrelief
from experiments.models import join


class Residual(nn.Module):
  """A stem, one residual block and a linear layer."""

  @nn.compact
  def __call__(self, x, *, train=False):
    norm = lambda x: nn.BatchNorm(not train, momentum=0.9)(x)
    x = nn.relu(norm(nn.Dense(8, use_bias=False)(x.reshape(len(x), -1))))
    x = nn.relu(join.Join()(norm(nn.Dense(8, use_bias=False)(x)), x))
    return nn.Dense(10)(x)


def short_config(**fields):
  config = mnist_lenet300_nnrelief.get_config()
  config.update(
    dataset='digits',
    validation_size=200,
    epochs=2,
    batch_size=32,
    seeds=1,
    points_per_epoch=1,
    alphas=(0.8,),
    nnrelief={'iterations': 2, 'examples': 100},
  )
  config.update(fields)
  return config


def test_a_chain_with_normalisation_and_a_join(monkeypatch):
  config, model = short_config(), Residual()
  dataset = input_pipeline.from_config(config)
  first, first_state = initial.initial_variables(config, model, dataset)
  starts = []
  fit = train.fit

  def spy(config, *args, params=None, model_state=None, **options):
    starts.append((params, model_state))
    return fit(config, *args, params=params, model_state=model_state, **options)

  monkeypatch.setattr(train, 'fit', spy)
  dense = rewinding.train_dense(config, model, dataset)
  flow = rewinding.trace(config, model, dataset)
  stages = list(rewinding.chain(config, model, dataset, dense, flow, 0.8, 0.68))
  before = np.ones(8)
  for stage, (params, model_state) in zip(stages[1:], starts[1:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, params, first)
    gate = model_state.pop('gates')['Join_0']['shortcut']
    jax.tree.map(np.testing.assert_array_equal, model_state, first_state)
    state = stage.run.state
    kept = state.model_state['gates']['Join_0']['shortcut']
    np.testing.assert_array_equal(kept, gate)
    assert (gate <= before).all()
    before = gate
    for leaf, mask in zip(
      jax.tree.leaves(state.params), jax.tree.leaves(stage.masks), strict=True
    ):
      np.testing.assert_array_equal(np.asarray(leaf)[mask == 0], 0)
    # Trained from there, with the statistics of the pruned network.
    assert np.asarray(state.model_state['batch_stats']['BatchNorm_0']['mean'])[
      stage.masks['BatchNorm_0']['scale'] == 1
    ].all()
  assert before.min() == 0 < before.max()

  # What is reported is the network with its gates and statistics.
  point = nnrelief.measure(config, model, dataset, stages[-1])
  state, split = stages[-1].run.state, dataset.validation
  images = jnp.asarray(split.images) / 255
  logits = model.apply({'params': state.params, **state.model_state}, images)
  right = np.asarray(logits).argmax(-1) == np.asarray(split.labels)
  assert point['accuracy'] == pytest.approx(right.mean(), abs=0.006)
  assert point['accuracy'] > 0.2  # chance is 0.1


def test_the_dtype_of_the_config(tmp_path, monkeypatch):
  """It reaches the model; nothing is trained."""
  asked = []

  def create_model(*args):
    asked.append(args)
    raise RuntimeError('enough')

  monkeypatch.setattr(models, 'create_model', create_model)
  with pytest.raises(RuntimeError, match='enough'):
    nnrelief.experiment(short_config(dtype='bfloat16'), str(tmp_path))
  assert asked == [('lenet300', 10, 'bfloat16')]
