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
"""The network with gates, the static one that it leaves, and their training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import models
from experiments.models import gated_resnet
from experiments.models import resnet
from scl_jax import gates

SMALL = {'depth': 8, 'num_classes': 3, 'projection': True}
MODEL = gated_resnet.GatedResNet(**SMALL, every_block=True)
LABELS = np.arange(12) % 3
IMAGES = (
  np.random.default_rng(0).normal(LABELS[:, None, None, None], 0.5,
                                  (12, 16, 16, 3))
).astype(np.float32)  # fmt: skip


@pytest.fixture(scope='module')
def variables():
  """Statistics and shifts of BatchNorm as no fresh network has them."""
  fresh = jax.jit(MODEL.init)(jax.random.key(0), IMAGES)
  rng = np.random.default_rng(1)

  def shift(path, leaf):
    is_norm = any('BatchNorm' in str(key) for key in path)
    return leaf + is_norm * rng.uniform(0, 0.5, leaf.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(shift, fresh)


def with_logits(variables, logits):
  """The variables with gates that say the same for all images."""
  params = dict(variables['params'])
  for index, logit in enumerate(logits):
    mlp = dict(params[f'Gate_{index}']['mlp'])
    mlp['logits'] = {**mlp['logits'], 'bias': jnp.full(1, logit)}
    params[f'Gate_{index}'] = {'mlp': mlp}
  return {**variables, 'params': params}


@jax.jit
def dynamic(variables):
  return MODEL.apply(variables, IMAGES, mutable=['decisions'])


def without_gates(params):
  return {k: v for k, v in params.items() if not k.startswith('Gate')}


def test_open_gates_are_the_base_network(variables):
  """Exactly, in training as well, and op by op: XLA may fuse them unlike."""
  assert set(variables) == {'params', 'batch_stats'}
  train = {'train': True, 'mutable': ['batch_stats']}
  found = MODEL.apply(variables, IMAGES, **train)
  base = {**variables, 'params': without_gates(variables['params'])}
  expected = resnet.ResNet(**SMALL).apply(base, IMAGES, **train)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize('closed', [(0, 2), (1,)])
def test_closed_blocks_are_their_shortcuts(variables, closed):
  """With gates, without, and by branches whose last BatchNorm gives 0."""
  variables = with_logits(
    variables, [-1.0 if i in closed else 1.0 for i in range(3)]
  )
  logits, out = dynamic(variables)
  assert gates.disagreement(out['decisions']) == 0
  static, left = MODEL.extract(variables, gates.consensus(out['decisions']))
  assert static.closed == closed
  assert 'Gate' not in str(jax.tree.structure(left))
  shapes = jax.eval_shape(static.init, jax.random.key(0), IMAGES)
  assert jax.tree.map(jnp.shape, left) == jax.tree.map(jnp.shape, shapes)
  found = jax.jit(static.apply)(left, IMAGES)
  np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-5)

  base = resnet.ResNet(**SMALL)
  params = without_gates(variables['params'])
  for index in closed:
    name = f'BatchNorm_{base.blocks()[index].branch[1]}'
    params[name] = jax.tree.map(jnp.zeros_like, params[name])
  expected = jax.jit(base.apply)({**variables, 'params': params}, IMAGES)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_stage_keeps_its_first_block():
  """Unless it is asked to give it up; only closed branches and gates go."""
  model = models.create_model('gated_resnet20', 10)
  assert model.gated_blocks() == [1, 2, 4, 5, 7, 8]
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  closed = {f'block_{i}': np.array([False]) for i in model.gated_blocks()}
  static, left = model.extract(variables, closed)
  assert static.closed == (1, 2, 4, 5, 7, 8)
  assert model.without_gates({'block_2': [0], 'block_4': []}).closed == (2,)
  expected = jax.eval_shape(static.init, jax.random.key(0), images)
  shapes = lambda tree: jax.tree.map(lambda x: x.shape, dict(tree))
  assert shapes(left) == shapes(expected)
  branches = {n for i in (0, 3, 6) for n in model.blocks()[i].branch}
  convolutions = {int(k[5:]) for k in left['params'] if k.startswith('Conv')}
  assert convolutions == {0} | branches
  assert models.create_model('gated_resnet8', 10).gated_blocks() == [0, 1, 2]
  assert model.clone(closed=(1, 4)).gated_blocks() == [2, 5, 7, 8]


def test_training_ends_in_the_target_share():
  """Task and regularisers in one jitted step; then the static network."""
  start = jax.jit(MODEL.init)(jax.random.key(0), IMAGES)
  tx = optax.sgd(0.1, momentum=0.9)

  def loss(params, batch_stats):
    logits, out = MODEL.apply(
      {'params': params, 'batch_stats': batch_stats},
      IMAGES,
      train=True,
      mutable=['batch_stats', 'decisions'],
    )
    task = optax.softmax_cross_entropy_with_integer_labels(
      logits, LABELS
    ).mean()
    means = gates.gate_means(out['decisions'])
    price = gates.activity(means, target=1 / 3)
    total = task + gates.polarization(means) + 2.25 * price
    return total, (task, out['batch_stats'])

  @jax.jit
  def step(params, batch_stats, opt_state):
    (_, (task, batch_stats)), grads = jax.value_and_grad(loss, has_aux=True)(
      params, batch_stats
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, batch_stats, opt_state, task

  state = (start['params'], start['batch_stats'], tx.init(start['params']))
  tasks = []
  for _ in range(50):
    *state, task = step(*state)
    tasks.append(float(task))
  assert tasks[-1] < 0.1 * tasks[0]
  trained = {'params': state[0], 'batch_stats': state[1]}
  logits, out = dynamic(trained)
  is_open = gates.consensus(out['decisions'])
  assert gates.disagreement(out['decisions']) == 0
  assert sum(int(g.sum()) for g in is_open.values()) == 1
  static, left = MODEL.extract(trained, is_open)
  found = jax.jit(static.apply)(left, IMAGES)
  np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
  assert (found.argmax(-1) == LABELS).mean() > 0.9


def test_errors():
  with pytest.raises(ValueError, match='every_block=True'):
    gated_resnet.GatedResNet(depth=8).gated_blocks()
  with pytest.raises(ValueError, match=r'is_open must hold block_0, .*; got b'):
    MODEL.extract({}, {'block_1': np.array([True])})
  decisions = {f'block_{i}': np.ones((5, 1)) for i in range(3)}
  with pytest.raises(
    ValueError, match=r"\(1,\) for 'block_0'; got shape \(5, 1\)"
  ):
    MODEL.extract({}, decisions)
  for depth in (2, 18):
    with pytest.raises(ValueError, match=r'6 n \+ 2'):
      resnet.ResNet(depth).blocks()
  with pytest.raises(ValueError, match=r'closed must .* 0 to 2; got \(3,\)'):
    resnet.ResNet(8, closed=(3,)).init(jax.random.key(0), IMAGES)
