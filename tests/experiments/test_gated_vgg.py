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
"""VGG with gates on channels, and the static network that it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models
from experiments.models import gate
from experiments.models import gated_vgg
from experiments.models import vgg
import scl_jax
from scl_jax import gates

SMALL = {'depth': 3, 'num_classes': 3, 'features': (4, 5)}
MODEL = gated_vgg.GatedVGG(**SMALL)
FEATURES = [4, 4, 5]
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope='module', autouse=True)
def depth_3():
  """Two convolutions, and one on maps of half the size."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(vgg._CONVOLUTIONS, 3, (2, 1))
    yield


@pytest.fixture(scope='module')
def variables(depth_3):
  """Statistics and shifts of BatchNorm as no fresh network has them."""
  fresh = jax.jit(MODEL.init)(jax.random.key(0), IMAGES)
  rng = np.random.default_rng(1)

  def shift(path, leaf):
    is_norm = any('BatchNorm' in str(key) for key in path)
    noise = rng.uniform(0, 0.5, leaf.shape).astype(np.float32)
    return np.asarray(leaf) + is_norm * noise

  return jax.tree_util.tree_map_with_path(shift, fresh)


@pytest.fixture(scope='module')
def dynamic():
  """Logits and decisions, compiled once."""
  apply = lambda v: MODEL.apply(v, IMAGES, mutable=['decisions'])
  return jax.jit(apply)


def with_decisions(variables, is_open):
  """The variables with gates that say the same for all images."""
  params = dict(variables['params'])
  for name, chosen in is_open.items():
    layer = name.removeprefix('layer_')
    mlp = dict(params[f'Gate_{layer}']['mlp'])
    bias = np.where(chosen, 1.0, -1.0).astype(np.float32)
    mlp['logits'] = {**mlp['logits'], 'bias': bias}
    params[f'Gate_{layer}'] = {'mlp': mlp}
  return {**variables, 'params': params}


def without_gates(params):
  return {k: v for k, v in params.items() if not k.startswith('Gate')}


def test_open_gates_are_the_base_network(variables, dynamic):
  logits, out = dynamic(variables)
  assert {k: v.shape for k, v in out['decisions'].items()} == {
    f'layer_{i}': (4, count - 1) for i, count in enumerate(FEATURES)
  }
  assert all(decisions.all() for decisions in out['decisions'].values())
  base = {**variables, 'params': without_gates(variables['params'])}
  expected = jax.jit(vgg.VGG(**SMALL).apply)(base, IMAGES)
  np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)


def test_the_static_network_is_the_dynamic_one(variables, dynamic):
  """Where decisions agree: with closed channels as 0, and without them."""
  rng = np.random.default_rng(2)
  is_open = {
    f'layer_{i}': rng.random(count - 1) < 0.5
    for i, count in enumerate(FEATURES)
  }
  is_open['layer_1'][:] = False  # what has no gate is left of it
  logits, out = dynamic(with_decisions(variables, is_open))
  jax.tree.map(
    np.testing.assert_array_equal, gates.consensus(out['decisions']), is_open
  )
  assert gates.disagreement(out['decisions']) == 0
  network, left = MODEL.extract(variables, is_open)
  assert type(network) is vgg.VGG
  assert 'Gate' not in str(jax.tree.structure(left))
  small = scl_jax.compact(network.apply, left, None, IMAGES)
  found = jax.jit(small.fn)(small.params, IMAGES)
  np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)
  assert np.ptp(found) > 0.01
  inputs = 1
  for i, name in enumerate(is_open):
    outputs = 1 + is_open[name].sum()
    shape = small.params['params'][f'Conv3x3_{i}']['kernel'].shape
    assert shape == (3, 3, inputs, outputs)
    inputs = outputs
  assert small.params['params']['Dense_0']['kernel'].shape == (inputs, 3)


def test_a_layer_keeps_its_first_channel():
  """Unless it is asked to give it up."""
  closed = {f'layer_{i}': np.zeros(n - 1, bool) for i, n in enumerate(FEATURES)}
  images = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
  for every_channel in (False, True):
    model = MODEL.clone(every_channel=every_channel)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    if every_channel:
      closed = {k: np.append(v, False) for k, v in closed.items()}
    _, left = model.extract(ones, closed)
    for i in range(3):
      kernel = np.asarray(left['params'][f'Conv3x3_{i}']['kernel'])
      assert kernel[..., 0].any() == (not every_channel)
      assert not kernel[..., 1:].any()
      assert not kernel[:, :, 1:].any()


def test_costs_and_names():
  model = models.create_model('gated_vgg16', 10)
  assert isinstance(model, gate.GatedModel)
  assert not isinstance(model.without_gates(), gate.GatedModel)
  layers = {f'Conv3x3_{i}': 64.0 * (i + 1) for i in range(13)}
  costs = model.gate_costs(layers)
  assert costs['layer_1'] == 2.0
  assert costs['layer_12'] == 64 * 13 / 512
  assert model.without_gates().inner_filters()['Conv3x3_12'] == 'BatchNorm_12'


def test_errors():
  with pytest.raises(ValueError, match=r'is_open must hold layer_0, .*; got b'):
    MODEL.extract({'params': {}}, {'block_1': np.ones(2)})
  decisions = {f'layer_{i}': np.ones((5, n)) for i, n in enumerate(FEATURES)}
  with pytest.raises(ValueError, match=r"\(3,\) for 'layer_0'; got .*\(5, 4\)"):
    MODEL.extract({'params': {}}, decisions)
