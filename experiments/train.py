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
"""The training job: read `train_and_evaluate` from top to bottom."""

from collections.abc import Callable, Iterator
import functools
import os
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tqdm

from experiments import artifacts
from experiments import checkpointing
from experiments import input_pipeline
from experiments import models
import scl_jax


class TrainState(NamedTuple):
  """What changes from step to step.

  Attributes:
    step: Steps so far, int32.
    params: The effective parameters.
    opt_state: The optimizer's state; for sparse methods it holds the weights
      and masks.
  """

  step: jax.Array
  params: Any
  opt_state: optax.OptState


class Run(NamedTuple):
  """A finished training run.

  Attributes:
    state: The last state.
    history: One dict for each point at which metrics were taken.
    freeze_step: The step from which on masks are fixed.
    seconds: Wall-clock time, compilation included.
    findings: What `scl_jax.diagnose` found before masks were fixed and at the
      end.
  """

  state: TrainState
  history: list[dict[str, float]]
  freeze_step: int
  seconds: float
  findings: list[str]


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str
) -> dict[str, Any]:
  """Trains a network, evaluates it once on the test split, writes the results.

  Args:
    config: See `experiments/configs/`.
    workdir: Where the config, metrics, table, plots and arrays go.

  Returns:
    What is in `result.json`: accuracies, density, times.
  """
  os.makedirs(workdir, exist_ok=True)
  dataset = input_pipeline.load_dataset(
    config.dataset,
    validation_size=config.validation_size,
    image_size=config.get('image_size'),
  )
  model = models.create_model(config.model, dataset.num_classes)
  result: dict[str, Any] = {'seed': config.seed}

  run = fit(config, model, dataset)
  result['test_accuracy'] = accuracy(model, run.state.params, dataset.test)
  result['seconds'] = run.seconds
  result['findings'] = run.findings
  masks = get_masks(config, run.state)
  result['density'] = float(scl_jax.density(masks))

  if config.dense_reference:
    dense_config = config.copy_and_resolve_references()
    dense_config.method = 'dense'
    dense = fit(dense_config, model, dataset)
    result['dense_test_accuracy'] = accuracy(
      model, dense.state.params, dataset.test
    )
    result['dense_seconds'] = dense.seconds

  checkpointing.save(workdir, {'params': run.state.params, 'masks': masks})
  image_shape = (1, *dataset.train.images.shape[1:])
  costs = scl_jax.costs(
    lambda params, x: model.apply({'params': params}, x),
    run.state.params,
    jnp.zeros(image_shape),
  )
  artifacts.write(
    workdir,
    config=config,
    result=result,
    history=run.history,
    table=scl_jax.summary(run.state.params, masks, costs=costs),
    masks=masks,
    image_shape=image_shape[1:],
  )
  logging.info('Wrote %s', workdir)
  return result


def fit(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  *,
  make_rule: Callable[[int], scl_jax.MaskRule] | None = None,
) -> Run:
  """Trains from scratch.

  The seed alone decides the initial weights and the order of the examples, so
  all methods start from the same weights and see the same batches.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    dataset: Its train and validation splits are used.
    make_rule: Makes another rule than the config's, from the number of steps.

  Returns:
    A `Run`.
  """
  start = time.perf_counter()
  train, batch_size = dataset.train, config.batch_size
  if not 0 < batch_size <= train.num_examples:
    raise ValueError(
      'config.batch_size must be between 1 and the number of training '
      f'examples, {train.num_examples}; got {batch_size}.'
    )
  if config.epochs < 1:
    raise ValueError(f'config.epochs must be >= 1, got {config.epochs}.')
  steps_per_epoch = train.num_examples // batch_size
  num_steps = config.epochs * steps_per_epoch

  init_key, order_key = jax.random.split(jax.random.key(config.seed))
  images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
  params = jax.jit(model.init)(init_key, normalize(images[:1]))['params']
  optimizer = optax.adam(
    optax.cosine_decay_schedule(config.learning_rate, num_steps)
  )
  rule = (make_rule or functools.partial(rule_of, config))(num_steps)
  tx = optimizer if rule is None else scl_jax.sparsify(optimizer, rule)
  state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  run_steps = make_run_steps(model, tx, params)

  history: list[dict[str, float]] = []
  findings: list[str] = []
  with tqdm.tqdm(total=num_steps, unit='step', disable=None) as bar:
    bar.set_description(f'{config.method}, seed {config.seed}')
    for epoch, rows, ends_epoch in batches(
      order_key, train.num_examples, batch_size, config
    ):
      state, loss = run_steps(state, images, labels, rows)
      point = {
        'step': int(state.step),
        'epoch': epoch,
        'loss': float(loss),
        'density': float(scl_jax.density(get_masks(config, state))),
      }
      if dataset.validation.num_examples and ends_epoch:
        point['validation_accuracy'] = accuracy(
          model, state.params, dataset.validation
        )
      history.append(point)
      last = state.step + len(rows) > freeze_step(config, num_steps)
      if rule is not None and not findings and last:
        found = scl_jax.diagnose(state.opt_state, num_steps - int(state.step))
        findings += [finding.message for finding in found]
      bar.update(len(rows))
      bar.set_postfix({k: f'{v:.4f}' for k, v in point.items() if k != 'step'})
  return Run(
    state,
    history,
    freeze_step(config, num_steps),
    time.perf_counter() - start,
    findings,
  )


def rule_of(
  config: ml_collections.ConfigDict, num_steps: int
) -> scl_jax.MaskRule | None:
  """The rule that a config describes; `None` for the dense network.

  Args:
    config: See `experiments/configs/`.
    num_steps: The length of the run, in steps.

  Returns:
    A `MaskRule`, or `None`.

  Raises:
    ValueError: If the method is unknown.
  """
  if config.method == 'dense':
    return None
  if config.method == 'scl':
    return scl_jax.scl(
      penalty=config.penalty if config.target_density is None else None,
      target_density=config.target_density,
      freeze_step=freeze_step(config, num_steps),
      **config.scl,
    )
  raise ValueError(
    f"config.method must be 'dense' or 'scl'; got {config.method!r}."
  )


def freeze_step(config: ml_collections.ConfigDict, num_steps: int) -> int:
  """The step from which on masks are fixed.

  Raises:
    ValueError: If the run ends before it.
  """
  if not 0 < config.freeze_at <= 1:
    raise ValueError(
      'config.freeze_at must be in (0, 1], a share of the run: masks are never '
      f'fixed, nor a target made exact, after its end; got {config.freeze_at}.'
    )
  return max(1, round(config.freeze_at * num_steps))


def make_run_steps(
  model: Any, tx: optax.GradientTransformation, params: Any
) -> Callable[..., tuple[TrainState, jax.Array]]:
  """A function that takes several training steps and gives their mean loss.

  They are one compiled scan, except for convolutions on a CPU, which XLA runs
  about 80 times slower inside a loop.
  """

  def step(state, images, labels, rows):
    def loss_fn(params):
      logits = model.apply({'params': params}, normalize(images[rows]))
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels[rows]
      ).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), loss

  has_convolution = any(p.ndim > 2 for p in jax.tree.leaves(params))
  if has_convolution and jax.default_backend() == 'cpu':
    one_step = jax.jit(step, donate_argnums=0)

    def run_steps(state, images, labels, rows):
      losses = []
      for one in rows:
        state, loss = one_step(state, images, labels, one)
        losses.append(loss)
      return state, jnp.stack(losses).mean()

    return run_steps

  @functools.partial(jax.jit, donate_argnums=0)
  def scan_steps(state, images, labels, rows):
    state, losses = jax.lax.scan(
      lambda state, one: step(state, images, labels, one), state, rows
    )
    return state, losses.mean()

  return scan_steps


def batches(
  key: jax.Array,
  num_examples: int,
  batch_size: int,
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[int, np.ndarray, bool]]:
  """The rows of each batch, in as many parts an epoch as metrics are taken.

  Yields:
    Tuples of the epoch (from 1), rows [steps, batch_size] and whether they end
    the epoch. What does not fill a batch is left out, different rows each
    epoch.
  """
  steps = num_examples // batch_size
  permute = jax.jit(lambda k: jax.random.permutation(k, num_examples))
  for epoch in range(config.epochs):
    order = np.asarray(permute(jax.random.fold_in(key, epoch)))
    rows = order[: steps * batch_size].reshape(steps, batch_size)
    parts = np.array_split(rows, min(config.points_per_epoch, steps))
    for index, part in enumerate(parts):
      yield epoch + 1, part, index == len(parts) - 1


def normalize(images: jax.Array) -> jax.Array:
  """uint8 pixels to [0, 1] in float32."""
  return images.astype(jnp.float32) / 255


def accuracy(model: Any, params: Any, split: input_pipeline.Split) -> float:
  """The share of examples that are classified correctly."""
  correct = 0
  for start in range(0, split.num_examples, 1000):
    part = split.take(slice(start, start + 1000))
    logits = _predict(model, params, part.images)
    correct += int((logits.argmax(-1) == part.labels).sum())
  return correct / split.num_examples


@functools.partial(jax.jit, static_argnums=0)
def _predict(model, params, images):
  return model.apply({'params': params}, normalize(images))


def get_masks(config: ml_collections.ConfigDict, state: TrainState) -> Any:
  """The masks of a run; for a dense one, all ones."""
  if config.method != 'dense':
    return scl_jax.get_masks(state.opt_state)
  chosen = scl_jax.prunable(state.params)
  return jax.tree.map(
    lambda p, is_prunable: jnp.ones_like(p) if is_prunable else None,
    state.params,
    chosen,
  )
