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
"""`experiments.sharding`, and train.py on one and on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import input_pipeline
from experiments import models
from experiments import sharding
from experiments import train
from experiments.configs import digits_mlp_scl
import scl_jax

PAIRS = (('.*kernel', ('fsdp', 'tensor')), ('.*', ()))


def get_config(**sizes):
  config = digits_mlp_scl.get_config()
  config.mesh.update(sizes)
  config.batch_size = 64
  config.param_axes = PAIRS
  return config


def test_mesh_takes_what_is_left():
  assert sharding.make_mesh(get_config()) is None
  mesh = sharding.make_mesh(get_config(data=-1, tensor=2))
  assert mesh is not None
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 1, 'tensor': 2}


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ({'data': 3, 'fsdp': 4}, 'does not fit the 8 devices'),
    ({'data': -1, 'fsdp': 3}, 'does not fit the 8 devices'),
    ({'data': -1, 'fsdp': -1}, 'does not fit the 8 devices'),
    ({'data': 0}, 'whole numbers >= 1'),
    ({'data': 7}, 'must be divisible by the mesh axes'),
  ],
)
def test_bad_mesh(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.make_mesh(get_config(**sizes))


def test_bad_axis_types():
  config = get_config(data=2)
  config.axis_types = 'manual'
  with pytest.raises(ValueError, match="'auto' or 'explicit', got 'manual'"):
    sharding.make_mesh(config)


PARAMS = {'d': {'kernel': jnp.ones((8, 6)), 'bias': jnp.ones(6)}}


@pytest.mark.parametrize(
  ('pairs', 'message'),
  [
    (('.*', ('fsdp',)), 'must hold pairs of a pattern and axes'),
    ((('(', ('fsdp',)),), r"pattern '\(' is no regular expression"),
    (PAIRS[:1], "must cover every leaf, .* matches 'd/bias'"),
    ((*PAIRS, ('e/.*', ())), "'e/.*' matches no leaf"),
    ((('.*', ('fsdp', 'tensor')),), "do not fit 'd/bias'"),
    ((('.*', ('model',)),), 'must be axes of the mesh'),
    ((('.*kernel', ('tensor', 'tensor')), ('.*', ())), 'each once'),
    ((('.*', ('data',)),), 'that divide'),
  ],
)
def test_bad_param_axes(pairs, message):
  mesh = sharding.make_mesh(get_config(data=4, tensor=2))
  assert mesh is not None
  with pytest.raises(ValueError, match=message):
    sharding.param_shardings(PARAMS, pairs, mesh)


def test_state_lies_where_params_lie():
  mesh = sharding.make_mesh(get_config(fsdp=2, tensor=2))
  assert mesh is not None
  params = {'d': {'kernel': jnp.ones((8, 6)), 'bias': jnp.ones(6)}}
  where = sharding.param_shardings(params, PAIRS, mesh)
  rule = scl_jax.scl(
    target_density={'.*': 0.5}, freeze_step=9, granularity=(4, 2)
  )
  tx = optax.MultiSteps(scl_jax.sparsify(optax.adam(0.1), rule), 2)
  state = jax.eval_shape(tx.init, params)
  specs = jax.tree.map(
    lambda s: s.spec, sharding.state_shardings(state, params, where, mesh)
  )
  inner = specs.inner_opt_state
  whole, cut = jax.P(), jax.P('fsdp', 'tensor')
  assert specs.acc_grads['d'] == {'kernel': cut, 'bias': jax.P(None)}
  assert inner.weights['d']['kernel'] == cut
  assert inner.inner_state[0].mu['d']['kernel'] == cut
  # 2 x 3 variables: the mesh divides the first axis only.
  assert inner.rule_state.mask_params['d']['kernel'] == jax.P('fsdp', None)
  moments = inner.rule_state.normalizer_state.second_moment
  assert moments['d']['kernel'] == jax.P(None, 'tensor')
  assert inner.rule_state.penalty['d']['kernel'] == whole
  assert inner.rule_state.budget['d']['kernel'] == whole
  assert specs.mini_step == whole


def fit(config):
  dataset = input_pipeline.from_config(config)
  dataset = dataset._replace(
    train=dataset.train.take(np.arange(256)),
    validation=dataset.validation.take(np.arange(32)),
  )
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  return train.fit(config, model, dataset)


def test_train_on_one_and_eight_devices():
  config = get_config()
  config.epochs, config.target_density = 2, 0.2
  config.validation_size = 100
  config.points_per_epoch = 1
  one = fit(config)
  masks = scl_jax.get_masks(one.state.opt_state)
  config.mesh.update(data=2, fsdp=2, tensor=2)
  for axis_types in ('auto', 'explicit'):
    config.axis_types = axis_types
    run = fit(config)
    kernel = run.state.params['Dense_0']['kernel']
    assert kernel.sharding.spec == jax.P('fsdp', 'tensor')
    assert len(kernel.sharding.device_set) == 8
    for x, y in zip(
      jax.tree.leaves(masks),
      jax.tree.leaves(scl_jax.get_masks(run.state.opt_state)),
      strict=True,
    ):
      np.testing.assert_array_equal(x, y)
    for got, expected in zip(run.history, one.history, strict=True):
      assert got == pytest.approx(expected, abs=1e-5)
    assert run.findings == one.findings


def test_accuracy_is_of_each_example_once():
  """Where the devices do not divide their number, too."""
  dataset = input_pipeline.load_dataset('digits')
  split = dataset.test.take(slice(0, 29))
  model = models.create_model('lenet300', dataset.num_classes)
  images = jnp.zeros((1, *split.image_shape))
  params = model.init(jax.random.key(0), images)['params']
  mesh = sharding.make_mesh(get_config(data=2, fsdp=2, tensor=2))
  expected = train.accuracy(model, params, split)
  assert 0 < expected < 1
  copies = sharding.replicate(params, mesh)
  assert train.accuracy(model, copies, split) == expected
