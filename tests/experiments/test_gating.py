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
"""The price of gates: by hand, alone, and in a training step."""

import itertools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import gating
from experiments import models
from experiments import sharding
from experiments import training_step
from experiments.configs import digits_gated_resnet20_consensus
from experiments.models import gate
from experiments.models import gated_vgg
from scl_jax import gates
from scl_jax import ste

SHAPE = (16, 16, 1)
MODEL = models.create_model('gated_resnet8', 10)  # gates of unequal costs


def test_price_by_hand():
  """In step 9 of 40, with a ramp over 20: half of the way."""
  regularizer = gating.price(
    MODEL, SHAPE, 40, target=0.4, costs='connections', polarization=3.0,
    activity=0.6, ramp=0.5,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  decisions = {
    f'block_{i}': (rng.random((7, 1)) < 0.6).astype(np.float32)
    for i in range(3)
  }
  value, recorded = regularizer(decisions, 9)
  blocks = [(16, 16), (16, 32), (32, 64)]
  costs = np.array([9 * (a * b + b * b) for a, b in blocks], float)
  w = costs / costs.sum()
  means = np.array([d.mean() for d in decisions.values()])
  split = (means * (1 - means)).mean()
  v = w * np.maximum(w, 1 / 3)
  strength = 0.6 * 3.0 / v.sum()
  weighted = (v / v.sum()) @ (means * (1 - means))
  expected = 3.0 * 0.5 * weighted + strength * (w @ means - 0.7) ** 2
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(recorded['activity'], w @ means, rtol=1e-6)
  np.testing.assert_allclose(recorded['polarization'], split, rtol=1e-5)


def test_costs():
  """Of both convolutions of a branch, on maps of 8, 4 and 2 pixels."""
  macs = gating.gate_costs(MODEL, SHAPE, 'macs')
  assert macs == {
    'block_0': 64 * 9 * 2 * 16 * 16,
    'block_1': 16 * 9 * (16 * 32 + 32 * 32),
    'block_2': 4 * 9 * (32 * 64 + 64 * 64),
  }
  assert set(gating.gate_costs(MODEL, SHAPE, 'gates').values()) == {1.0}


def settle(regularizer, counts, num_steps):
  """Open shares of gates by name, and w: by the price alone, from open ones."""
  total = sum(counts.values())

  def decide(z):
    ends = np.cumsum([*counts.values()])
    parts = jnp.split(ste.unit_step(z, 'sigmoid'), ends[:-1], axis=1)
    return dict(zip(counts, parts, strict=True))

  @jax.jit
  def run(z):
    def step(z, number):
      price = lambda z: regularizer(decide(z), number)[0]
      return z - 20.0 * total * jax.grad(price)(z), None

    return jax.lax.scan(step, z, jnp.arange(num_steps))[0]

  noise = jax.random.normal(jax.random.key(0), (10, total))
  return gates.gate_means(decide(run(1 + 0.5 * noise)))


def shares_of(costs, counts):
  """w of each gate."""
  w = np.array([costs[n] for n in counts for _ in range(counts[n])])
  return w / w.sum()


@pytest.mark.parametrize('target', [0.75, 0.5, 0.35])
def test_the_share_is_reached_to_the_granularity_of_channels(target):
  model = gated_vgg.GatedVGG(features=(4, 4, 4, 6, 6))
  counts = {f'layer_{i}': n - 1 for i, n in enumerate([4] * 7 + [6] * 6)}
  regularizer = gating.price(
    model, (32, 32, 3), 4000, target=target, costs='connections'
  )
  means = settle(regularizer, counts, 4000)
  assert all(np.isin(m, (0, 1)).all() for m in means.values())
  costs = gating.gate_costs(model, (32, 32, 3), 'connections')
  share = gates.activity(means, costs)
  assert abs(share - target) <= shares_of(costs, counts).max()


@pytest.mark.parametrize('target', [0.75, 0.5, 0.35])
@pytest.mark.parametrize(
  ('name', 'costs'),
  [
    ('gated_resnet20', 'connections'),
    ('gated_resnet20', 'macs'),
    ('gated_resnet8', 'connections'),
    ('gated_resnet8', 'macs'),
  ],
)
def test_the_share_is_reached_to_the_granularity_of_blocks(name, costs, target):
  """No gate that could move towards τ explains less; all shares, tried."""
  model = models.create_model(name, 10)
  regularizer = gating.price(model, SHAPE, 1500, target=target, costs=costs)
  of_gates = gating.gate_costs(model, SHAPE, costs)
  counts = dict.fromkeys(of_gates, 1)
  means = settle(regularizer, counts, 1500)
  is_open = np.array([float(m[0]) for m in means.values()])
  assert np.isin(is_open, (0, 1)).all()
  w = shares_of(of_gates, counts)
  choices = np.array([*itertools.product((0, 1), repeat=len(w))]) @ w
  best = choices[np.argmin(np.abs(choices - target))]
  gap = w @ is_open - target
  granularity = np.maximum(w, 1 / len(w))[is_open == (gap > 0)].min()
  assert abs(gap) <= granularity / 1.5 + 0.01
  assert abs(w @ is_open - best) <= granularity
  if costs == 'macs' and name == 'gated_resnet20':
    assert gap == pytest.approx(best - target)
  arguments = {'target': target, 'costs': costs, 'activity': 0.75}
  assert not gating.findings(w @ is_open, means, of_gates, arguments)


def test_a_share_that_granularity_does_not_explain():
  costs = {'a': 1.0, 'b': 4.0, 'c': np.float64(15.0)}
  arguments = {'target': 0.5, 'costs': 'macs', 'activity': 0.75}
  is_open = {name: np.ones(1, bool) for name in costs}
  (message,) = gating.findings(1.0, is_open, costs, arguments)
  assert 'are 100.0% of the macs' in message
  assert 'closing a gate of 5.00% would come nearer' in message
  (message,) = gating.findings(
    0.2, {**is_open, 'c': ~is_open['c'], 'a': ~is_open['a']}, costs, arguments
  )
  assert 'opening a gate of 5.00%' in message
  # Only the large one is left to open, and 0.95 is no nearer than 0.25 is.
  is_open['c'] = ~is_open['c']
  assert not gating.findings(0.25, is_open, costs, arguments)


class Tiny(nn.Module):
  """A gate on a linear layer."""

  gated: bool = True

  @nn.compact
  def __call__(self, images, *, train=False):
    x = images.reshape(len(images), -1)
    y = nn.Dense(4)(x)
    if self.gated:
      decisions = gate.Gate(4, name='Gate_0')(x)
      gate.record(self, 'layer_0', decisions)
      y = y * decisions
    return nn.Dense(3)(nn.relu(y))


def test_step():
  """The gradient of task and price; on a mesh of two devices, too."""
  rng = np.random.default_rng(0)
  images = rng.random((8, 2, 2, 1), np.float32)
  labels = jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
  params = Tiny().init(jax.random.key(0), images)['params']
  kernel = params['Gate_0']['mlp']['logits']['kernel']
  params['Gate_0']['mlp']['logits'] = {
    'kernel': 9 * jax.random.normal(jax.random.key(1), kernel.shape),
    'bias': jnp.full(4, -0.3),
  }

  def regularizer(decisions, step):
    means = gates.gate_means(decisions)
    value = (step + 2) * gates.polarization(means)
    return value + gates.activity(means, target=0.5), {'polarization': value}

  def objective(params):
    logits, out = Tiny().apply(
      {'params': params}, images, mutable=['decisions']
    )
    assert set(out) == {'decisions'}
    task = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    price, _ = regularizer(out['decisions'], 3)
    return task.mean() + price, task.mean()

  config = digits_gated_resnet20_consensus.get_config()
  config.batch_size = 8
  tx = optax.sgd(0.1)
  first = training_step.TrainState(
    jnp.asarray(3, jnp.int32), params, {}, tx.init(params)
  )
  (_, task), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(
    params
  )
  expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
  for size, axis_types in ((1, 'auto'), (2, 'explicit')):
    config.mesh.data, config.axis_types = size, axis_types
    mesh = sharding.make_mesh(config)
    step = jax.jit(
      training_step.make_step(
        config, Tiny(), tx, None, lambda _, batch: batch, mesh, regularizer
      )
    )
    with sharding.use(mesh):
      where = lambda tree, mesh=mesh: sharding.replicate(tree, mesh)
      batch = where((255 * images, labels))
      state, metrics = step(where(first), (), batch)
    np.testing.assert_allclose(metrics['loss'], task, rtol=1e-5)
    assert metrics['polarization'] > 0.01
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      state.params,
      expected,
    )


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'target': 0.0}, r'target must be in \(0, 1\]; got 0.0'),
    ({'costs': 'flops'}, "costs must be one of .*; got 'flops'"),
    ({'polarization': -1.0}, 'polarization must be > 0'),
    ({'activity': 1.0}, r'activity must be in \(0, 1\)'),
    ({'ramp': 2.0}, r'ramp must be in \(0, 1\]'),
    ({'target': None}, 'needs config.consensus.target, the share'),
    ({'tau': 0.5}, 'config.consensus does not fit .*tau'),
  ],
)
def test_bad_arguments(fields, message):
  config = digits_gated_resnet20_consensus.get_config()
  config.consensus.update(fields)
  with pytest.raises(ValueError, match=message):
    gating.make_regularizer(config, MODEL, SHAPE, 100)


def test_a_model_without_gates():
  config = digits_gated_resnet20_consensus.get_config()
  model = models.create_model('resnet8', 10)
  with pytest.raises(ValueError, match='needs a model with gates'):
    gating.make_regularizer(config, model, SHAPE, 100)
  config.method = 'dense'
  assert gating.make_regularizer(config, model, SHAPE, 100) is None
