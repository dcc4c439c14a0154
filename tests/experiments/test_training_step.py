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
"""One step, by other routes: NumPy, parts of a batch, a plain loop."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import evaluation
from experiments import input_pipeline
from experiments import training_step
from experiments.configs import default
from experiments.models import layers


class Small(nn.Module):
  """A convolution, BatchNorm where asked for, a linear layer."""

  norm: bool = True

  @nn.compact
  def __call__(self, images, *, train=False):
    x = nn.Conv(4, (3, 3))(images)
    if self.norm:
      x = layers.batch_norm(train=train)(x)
    return nn.Dense(3)(nn.relu(x).mean(axis=(1, 2)))


@pytest.fixture
def batch():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (12, 5, 5, 2), dtype=np.uint8)
  return jnp.asarray(images), jnp.asarray(rng.integers(0, 3, 12), jnp.int32)


def step_of(model, batch, **fields):
  config = default.get_config()
  config.update(fields)
  tx = optax.sgd(0.1)
  variables = dict(model.init(jax.random.key(0), batch[0] / 255.0))
  params = variables.pop('params')
  state = training_step.TrainState(
    jnp.zeros((), jnp.int32), params, variables, tx.init(params)
  )
  take = lambda arrays, batch: batch
  step = training_step.make_step(config, model, tx, None, take)
  return jax.jit(step), state


def test_label_smoothing(batch):
  step, state = step_of(Small(norm=False), batch, label_smoothing=0.1)
  _, metrics = step(state, (), batch)
  images, labels = batch
  logits = Small(norm=False).apply({'params': state.params}, images / 255.0)
  logits = np.asarray(logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  targets = 0.9 * np.eye(3)[np.asarray(labels)] + 0.1 / 3
  np.testing.assert_allclose(
    metrics['loss'], -(targets * log_p).sum(-1).mean(), rtol=1e-5
  )


@pytest.mark.parametrize('parts', [2, 4])
def test_accumulation_is_the_whole_batch(batch, parts):
  """Without BatchNorm the gradient of a batch is the mean of its parts'."""
  whole, state = step_of(Small(norm=False), batch)
  split, _ = step_of(Small(norm=False), batch, accumulation_steps=parts)
  first, first_metrics = whole(state, (), batch)
  second, second_metrics = split(state, (), batch)
  np.testing.assert_allclose(
    first_metrics['loss'], second_metrics['loss'], rtol=1e-5
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    first.params,
    second.params,
  )


@pytest.mark.parametrize('parts', [1, 2])
def test_running_statistics(batch, parts):
  """Each part of a batch moves them by a tenth of the way."""
  step, state = step_of(Small(), batch, accumulation_steps=parts)
  new, _ = step(state, (), batch)
  params = state.params['Conv_0']
  x = np.asarray(nn.Conv(4, (3, 3)).apply({'params': params}, batch[0] / 255.0))
  mean, var = np.zeros(4), np.ones(4)
  for part in np.split(x, parts):
    mean = 0.9 * mean + 0.1 * part.mean((0, 1, 2))
    var = 0.9 * var + 0.1 * part.var((0, 1, 2))
  found = new.model_state['batch_stats']['BatchNorm_0']
  np.testing.assert_allclose(found['mean'], mean, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found['var'], var, rtol=1e-4)


def test_recalibration(batch):
  """The mean over batches of the statistics of each."""
  _, state = step_of(Small(), batch)
  images = [batch[0][:4], batch[0][4:8], batch[0][8:]]
  found = evaluation.recalibrate(
    Small(), state.params, state.model_state, images
  )['batch_stats']['BatchNorm_0']
  conv = lambda x: np.asarray(
    nn.Conv(4, (3, 3)).apply({'params': state.params['Conv_0']}, x / 255.0)
  )
  outputs = [conv(part) for part in images]
  np.testing.assert_allclose(
    found['mean'], np.mean([o.mean((0, 1, 2)) for o in outputs], 0), rtol=1e-4,
    atol=1e-6,
  )  # fmt: skip
  np.testing.assert_allclose(
    found['var'], np.mean([o.var((0, 1, 2)) for o in outputs], 0), rtol=1e-4
  )
  with pytest.raises(ValueError, match='at least one batch'):
    evaluation.recalibrate(Small(), state.params, state.model_state, [])
  with pytest.raises(ValueError, match='Small has none'):
    evaluation.recalibrate(Small(norm=False), state.params, {}, images)


def test_accuracy(batch):
  model = Small()
  _, state = step_of(model, batch)
  split = input_pipeline.Split(*(np.asarray(x) for x in batch))
  logits = model.apply(
    {'params': state.params, **state.model_state}, batch[0] / 255.0
  )
  expected = (np.asarray(logits).argmax(-1) == split.labels).mean()
  found = evaluation.accuracy(model, state.params, split, state.model_state)
  assert found == expected
  with pytest.raises(ValueError, match='without examples'):
    evaluation.accuracy(model, state.params, split.take(slice(0)))


def test_as_many_images_as_asked_for(batch):
  """Of a split that has fewer, the first ones again."""
  split = input_pipeline.Split(*(np.asarray(x) for x in batch))
  for number in (5, 12, 30):
    rows = np.arange(number) % 12
    np.testing.assert_allclose(
      evaluation.some_images(split, number),
      split.images[rows] / 255,
      rtol=1e-6,
    )


def test_the_step_decides_the_augmentation(batch):
  step, state = step_of(Small(), batch, crop_padding=2, flip=True)
  _, first = step(state, (), batch)
  _, again = step(state, (), batch)
  _, other = step(state._replace(step=state.step + 1), (), batch)
  assert first == again
  assert first != other


def test_scan_and_loop_agree(batch):
  """And neither the scan nor the data need the host between steps."""
  step, state = step_of(Small(), batch)
  copy = lambda tree: jax.tree.map(jnp.copy, tree)
  batches = jax.tree.map(lambda x: jnp.stack([x, x[::-1], x]), batch)
  scan = training_step.make_run_steps(step, scan=True)
  with jax.transfer_guard('disallow'):
    first, first_metrics = scan(copy(state), (), batches)
  loop = training_step.make_run_steps(step, scan=False)
  pieces = [jax.tree.map(lambda x: x[i], batches) for i in range(3)]
  second, second_metrics = loop(copy(state), (), pieces)
  np.testing.assert_allclose(
    first_metrics['loss'], second_metrics['loss'], rtol=1e-5
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    first.params,
    second.params,
  )
  assert first.step == second.step == 3


def test_only_convolutions_are_slow_in_loops(monkeypatch):
  dense = {'kernel': np.zeros((2, 2))}
  convolution = {'kernel': np.zeros((3, 3, 2, 2))}
  assert not training_step.loops_are_slow(dense)
  assert training_step.loops_are_slow(convolution)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert not training_step.loops_are_slow(convolution)
