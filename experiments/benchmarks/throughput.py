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
r"""Images per second of the training job, beside a plain Flax and optax loop.

Run it with:

    python -m experiments.benchmarks.throughput \
        --output=experiments/results/throughput_cpu.json

The plain loop is what one writes without this project: float32 images in the
host's memory, normalised beforehand, a jitted step a batch. It has no
augmentation, so neither has the training job here. Both train the same model
with the same optimizer on the same random images, in turn. Also reported: how
long the step of ResNet-56 takes to compile, dense and with SCL, without any
cache.
"""

from collections.abc import Callable, Mapping
import functools
import json
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments import feeds
from experiments import initial
from experiments import input_pipeline
from experiments import models
from experiments import optimizers
from experiments import rules
from experiments import train
from experiments import training_step
from experiments.benchmarks import preflight
from experiments.configs import cifar10
from experiments.configs import default
import scl_jax

_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Turns of each variant.', 1)
_ONLY = flags.DEFINE_multi_string('only', None, 'Networks to measure.')

# A turn trains for so many steps, which no variant may see coming.
Turn = Callable[[], None]


def networks() -> Mapping[
  str, tuple[ml_collections.ConfigDict, tuple[int, ...], int]
]:
  """(config, shape of an image, steps of a turn)."""
  residual = cifar10.get_config()
  residual.model = 'resnet20'
  return {
    'LeNet-300-100, batch 128': (default.get_config(), (28, 28, 1), 50),
    'ResNet-20, batch 128': (residual, (32, 32, 3), 2),
  }


def measure(
  config: ml_collections.ConfigDict,
  image_shape: tuple[int, ...],
  steps: int,
  rounds: int,
) -> dict[str, Any]:
  """Times the plain loop, the training job's dense step and its SCL step.

  Args:
    config: See `experiments/configs/`.
    image_shape: (height, width, channels).
    steps: How many steps a turn takes.
    rounds: How many turns each variant has.

  Returns:
    For each variant the median of images per second, and quartiles of the ratio
    to the plain loop in the same round.
  """
  config.crop_padding, config.flip = 0, False
  config.epochs, config.warmup_epochs = 1, 0.0
  split = _random_split(image_shape, steps * config.batch_size)
  dataset = input_pipeline.Dataset(split, split, split, num_classes=10)
  turns = {
    'plain loop': _plain(config, split),
    'dense': _ours(config, dataset, 'dense'),
    'scl': _ours(config, dataset, 'scl'),
  }
  seconds = {name: [] for name in turns}
  for index in tqdm.trange(rounds + 1, disable=None):
    for name, turn in turns.items():
      start = time.perf_counter()
      turn()
      if index:  # the first one compiles
        seconds[name].append(time.perf_counter() - start)
  table = {}
  for name, values in seconds.items():
    speed = np.array(seconds['plain loop']) / values
    low, middle, high = np.percentile(speed, (25, 50, 75))
    table[name] = {
      'images_per_second': steps * config.batch_size / float(np.median(values)),
      'speed': float(middle),
      'speed_quartiles': [float(low), float(high)],
    }
  return table


def _random_split(
  image_shape: tuple[int, ...], count: int
) -> input_pipeline.Split:
  rng = np.random.default_rng(0)
  return input_pipeline.Split(
    rng.integers(0, 256, (count, *image_shape), np.uint8),
    rng.integers(0, 10, count, np.int32),
  )


def _ours(
  config: ml_collections.ConfigDict,
  dataset: input_pipeline.Dataset,
  method: str,
) -> Turn:
  """An epoch of `experiments.train`, again and again."""
  if method == 'dense':
    config = rules.dense_config(config)
  # Whatever happens in the mask phase, and no cut, in all turns.
  num_steps = 10**6
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  feed = feeds.make_feed(config, dataset.train)
  tx = optimizers.make_optimizer(config, num_steps)
  rule = train.rule_of(config, num_steps)
  if rule is not None:
    tx = scl_jax.sparsify(tx, rule)
  state = initial.first_state(config, model, dataset, tx)
  run_steps = training_step.make_run_steps(
    training_step.make_step(
      config, model, tx, dataset.train.scaling, feed.take
    ),
    scan=not training_step.loops_are_slow(state.params),
  )

  def turn():
    nonlocal state
    rows = feed.batches(0, feed.steps_per_epoch)
    state, loss = run_steps(state, feed.arrays, rows)
    jax.block_until_ready((state, loss))

  return turn


def _plain(
  config: ml_collections.ConfigDict, split: input_pipeline.Split
) -> Turn:
  """The same training, as one would write it for this model alone."""
  model = models.create_model(config.model, 10)
  tx = optimizers.make_optimizer(config, 10**6)
  images = split.images.astype(np.float32) / 255
  labels, size = split.labels, config.batch_size
  variables = dict(model.init(jax.random.key(0), images[:1]))
  params = variables.pop('params')
  opt_state = tx.init(params)

  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def step(params, variables, opt_state, images, labels):
    def loss_fn(params):
      logits, updated = model.apply(
        {'params': params, **variables},
        images,
        train=True,
        mutable=list(variables),
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), updated

    (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), updated, opt_state, loss

  rng = np.random.default_rng(0)

  def turn():
    nonlocal params, variables, opt_state
    order = rng.permutation(len(labels))
    for first in range(0, len(order), size):
      rows = order[first : first + size]
      params, variables, opt_state, _ = step(
        params, variables, opt_state, images[rows], labels[rows]
      )
    jax.block_until_ready(params)

  return turn


def compile_seconds() -> dict[str, float]:
  """How long XLA and JAX take for the step of ResNet-56, without a cache."""
  config = cifar10.get_config()
  config.model = 'resnet56'
  model = models.create_model(config.model, 10)
  images = jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.uint8)
  labels = jax.ShapeDtypeStruct((128,), jnp.int32)
  found = {}
  jax.config.update('jax_enable_compilation_cache', False)
  for method in ('dense', 'scl'):
    one = rules.dense_config(config) if method == 'dense' else config
    tx = optimizers.make_optimizer(one, 10**4)
    rule = train.rule_of(one, 10**4)
    if rule is not None:
      tx = scl_jax.sparsify(tx, rule)
    split = _random_split((32, 32, 3), 1)
    dataset = input_pipeline.Dataset(split, split, split, num_classes=10)
    state = jax.eval_shape(
      functools.partial(initial.first_state, config, model, dataset, tx)
    )
    scaling = tuple(config.pixel_mean), tuple(config.pixel_std)
    step = training_step.make_step(
      config, model, tx, scaling, lambda _, batch: batch
    )
    start = time.perf_counter()
    jax.jit(step).lower(state, (), (images, labels)).compile()
    found[method] = round(time.perf_counter() - start, 1)
  return found


def main() -> None:
  """Measures, prints a table and writes JSON."""
  preflight.check_output(_OUTPUT.value)
  chosen = preflight.selected(networks(), _ONLY.value)
  report: dict[str, Any] = {
    'command': artifacts.command('experiments.benchmarks.throughput'),
    **artifacts.measured_on(),
    'networks': {},
  }
  for name in chosen:
    table = measure(*networks()[name], rounds=_ROUNDS.value)
    report['networks'][name] = table
    print(f'\n{name}')
    for variant, row in table.items():
      low, high = row['speed_quartiles']
      print(
        f'  {variant:10} {row["images_per_second"]:10,.0f} images/s'
        f'  x {row["speed"]:.3f} ({low:.3f} to {high:.3f})'
      )
  if not _ONLY.value:
    report['compile_seconds_resnet56'] = compile_seconds()
    print(f'\nResNet-56 compiles in {report["compile_seconds_resnet56"]} s')
  if _OUTPUT.value:
    artifacts.write_text(_OUTPUT.value, json.dumps(report, indent=1))


if __name__ == '__main__':
  command_line.run(main, keep_programs=False)
