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
"""One training step, and many of them as one call."""

from collections.abc import Callable, Iterable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments import augmentation
from experiments import sharding


class TrainState(NamedTuple):
  """What changes from step to step.

  Attributes:
    step: Steps so far, int32.
    params: The effective parameters.
    model_state: What the model updates itself: BatchNorm's statistics, or {}.
    opt_state: The optimizer's state; for sparse methods it holds the weights
      and masks.
  """

  step: jax.Array
  params: Any
  model_state: Any
  opt_state: optax.OptState


Metrics = dict[str, jax.Array]
RunSteps = Callable[
  [TrainState, Any, Iterable[Any]], tuple[TrainState, Metrics]
]

# From the decisions of gates and the step to a price, and what else to record.
Regularizer = Callable[[Any, jax.Array], tuple[jax.Array, Metrics]]


def make_step(
  config: ml_collections.ConfigDict,
  model: Any,
  tx: optax.GradientTransformation,
  scaling: augmentation.Scaling | None,
  take: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
  mesh: jax.sharding.Mesh | None = None,
  regularizer: Regularizer | None = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]]:
  """The training step of a config, to be compiled.

  The step's number and the seed decide the augmentation, so that a run that
  was interrupted goes on with the same images.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    tx: The optimizer.
    scaling: Of pixels, see `augmentation.scale`.
    take: `(arrays, batch) -> (images, labels)`, see `experiments.feeds`.
    mesh: Of several devices, see `experiments.sharding`.
    regularizer: Of a model with gates: what their decisions cost, those of the
      whole batch on all devices, or of each part of it that is accumulated.

  Returns:
    `step(state, arrays, batch) -> (state, metrics)`: `'loss'`, that of the
    task, and what the regularizer records.
  """
  augment_key = jax.random.fold_in(jax.random.key(config.seed), 1)
  parts, smoothing = config.accumulation_steps, config.label_smoothing

  def loss_fn(params, model_state, number, images, labels):
    kept = list(model_state)
    logits, model_state = model.apply(
      {'params': params, **model_state},
      augmentation.scale(images, scaling),
      train=True,
      mutable=kept if regularizer is None else [*kept, 'decisions'],
    )
    logits = logits.astype(jnp.float32)
    if smoothing:
      targets = jax.nn.one_hot(labels, logits.shape[-1])
      losses = optax.softmax_cross_entropy(
        logits, optax.smooth_labels(targets, smoothing)
      )
    else:
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    objective = losses.mean()
    metrics = {'loss': objective}
    if regularizer is not None:
      model_state = dict(model_state)
      price, recorded = regularizer(model_state.pop('decisions'), number)
      objective, metrics = objective + price, metrics | recorded
    return objective, (metrics, model_state)

  gradient = jax.value_and_grad(loss_fn, has_aux=True)

  def accumulated_gradient(params, model_state, number, images, labels):
    def body(carry, part):
      total, model_state = carry
      (_, (metrics, model_state)), grads = gradient(
        params, model_state, number, *part
      )
      return (jax.tree.map(jnp.add, total, grads), model_state), metrics

    zero = jax.tree.map(jnp.zeros_like, params)
    split = lambda x: x.reshape(parts, -1, *x.shape[1:])
    (total, model_state), metrics = jax.lax.scan(
      body,
      (zero, model_state),
      (split(images), split(labels)),
      unroll=parts if loops_are_slow(params) else 1,
    )
    grads = jax.tree.map(lambda x: x / parts, total)
    return (None, (_mean(metrics), model_state)), grads

  def gradient_of_batch(params, model_state, number, arrays, batch):
    images, labels = sharding.cut_batch(take(arrays, batch), mesh)
    if config.crop_padding or config.flip:
      images = augmentation.crop_and_flip(
        jax.random.fold_in(augment_key, number),
        images,
        padding=config.crop_padding,
        flip=config.flip,
      )
    compute = gradient if parts == 1 else accumulated_gradient
    (_, aux), grads = compute(params, model_state, number, images, labels)
    return aux, grads

  def step(state, arrays, batch):
    compute = sharding.left_to_xla(gradient_of_batch, mesh)
    (metrics, model_state), grads = compute(
      state.params, state.model_state, state.step, arrays, batch
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), metrics

  return step


def make_run_steps(
  step: Callable[..., tuple[TrainState, Metrics]],
  *,
  scan: bool,
  shardings: TrainState | None = None,
) -> RunSteps:
  """A function that takes several training steps and averages their metrics.

  Args:
    step: As `make_step` makes it.
    scan: Whether they are one compiled scan; the batches are an array then.
    shardings: Where the state lies, if on several devices.

  Returns:
    `run_steps(state, arrays, batches) -> (state, metrics)`; `state` is donated.
  """
  compiled = functools.partial(jax.jit, donate_argnums=0)
  if shardings is not None:
    # The state stays where it lies; metrics are left to XLA.
    compiled = functools.partial(compiled, out_shardings=(shardings, None))
  if scan:

    @compiled
    def scan_steps(state, arrays, batches):
      state, metrics = jax.lax.scan(
        lambda state, batch: step(state, arrays, batch), state, batches
      )
      return state, _mean(metrics)

    return scan_steps

  one_step = compiled(step)

  def run_steps(state, arrays, batches):
    history = []
    for batch in batches:
      state, metrics = one_step(state, arrays, batch)
      history.append(metrics)
    return state, _mean(jax.tree.map(lambda *x: jnp.stack(x), *history))

  return run_steps


def _mean(metrics: Metrics) -> Metrics:
  """Over the first axis of each."""
  return jax.tree.map(lambda x: x.mean(axis=0), metrics)


def loops_are_slow(params: Any) -> bool:
  """Whether XLA should not see this model within a loop.

  On a CPU it runs convolutions about 80 times slower there.

  Args:
    params: The model's.

  Returns:
    Whether there are convolutions and no accelerator.
  """
  return has_convolutions(params) and jax.default_backend() == 'cpu'


def has_convolutions(params: Any) -> bool:
  """Whether a model has convolutions, by the rank of its kernels.

  Args:
    params: The model's.

  Returns:
    Whether any leaf has more than two axes.
  """
  return any(np.ndim(p) > 2 for p in jax.tree.leaves(params))
