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

from collections.abc import Callable, Iterator, Mapping, Sequence
import itertools
import math
import os
import signal
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import ml_collections

from experiments import artifacts
from experiments import checkpointing
from experiments import evaluation
from experiments import gating
from experiments import hosts
from experiments import input_pipeline
from experiments import interruption
from experiments import mask_history
from experiments import models
from experiments import preparation
from experiments import recording
from experiments import rules
from experiments import sharding
from experiments import training_step
import scl_jax

# What experiments with a loop of their own call by these names, too.
TrainState = training_step.TrainState
accuracy = evaluation.accuracy
freeze_step = rules.freeze_step
rule_of = rules.rule_of


class Run(NamedTuple):
  """A finished training run.

  Attributes:
    state: The last state.
    history: One dict for each point at which metrics were taken.
    freeze_step: The step from which on masks are fixed.
    seconds: Wall-clock time, compilation included.
    findings: What `scl_jax.diagnose` found before masks were fixed, else at the
      end; of a run that diverged that alone.
  """

  state: TrainState
  history: list[dict[str, float]]
  freeze_step: int
  seconds: float
  findings: list[str]


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str, *, resume: bool = False
) -> dict[str, Any]:
  """Trains a network, evaluates it once on the test split, writes the results.

  Args:
    config: See `experiments/configs/`.
    workdir: Where the config, metrics, table, plots and arrays go; of several
      processes, a folder that all of them see.
    resume: Whether to go on from the newest checkpoint in `workdir`, if there
      is one; the numbers are those of a run that was not interrupted.

  Returns:
    What is in `result.json`: accuracies, density, times.

  Raises:
    ValueError: If the config is bad; if `workdir` holds an unfinished run, or
      with `resume` one of another config; if a network with gates diverges.
    FileNotFoundError: If the data or the warm start is not there.
    experiments.interruption.Interrupted: After SIGTERM or Ctrl-C, when all is
      saved.
  """
  logging.info('JAX %s on %s', jax.__version__, jax.devices())
  artifacts.check(workdir, config, resume=resume)
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  restores = resume and checkpointing.has_checkpoint(workdir)
  job = preparation.prepare(config, model, dataset, restores=restores)

  # Only now, as nothing is wrong, is a finished run replaced.
  artifacts.start(workdir, config, resume=resume)
  run = run_job(job, workdir, resume=resume)
  del job  # and what it holds on the devices
  result: dict[str, Any] = {'seed': config.seed}
  params, model_state = run.state.params, run.state.model_state
  masks, dense_model = get_masks(config, run.state), model
  if config.method == 'consensus':
    check_finite(run, 'The network with gates')
    dense_model = model.without_gates()
    static = gating.extract(model, run.state, dataset, config.consensus)
    model, params, masks = static.model, static.params, static.masks
    model_state = static.model_state
    result |= static.report
  else:
    result['test_accuracy'] = accuracy(model, params, dataset.test, model_state)
    result['density'] = float(scl_jax.density(masks))
  result['seconds'] = run.seconds
  result['findings'] = run.findings + result.get('findings', [])

  if config.dense_reference:
    dense = fit(
      rules.dense_config(config),
      dense_model,
      dataset,
      workdir=os.path.join(workdir, 'dense'),
      resume=resume,
    )
    result['dense_test_accuracy'] = accuracy(
      dense_model, dense.state.params, dataset.test, dense.state.model_state
    )
    result['dense_seconds'] = dense.seconds

  checkpointing.save(
    workdir, {'params': params, 'masks': masks, 'model_state': model_state}
  )
  params, model_state, masks = hosts.gather((params, model_state, masks))
  image_shape = dataset.train.image_shape
  costs = scl_jax.costs(
    lambda params, x: model.apply({'params': params, **model_state}, x),
    params,
    jnp.zeros((1, *image_shape)),
  )
  if hosts.is_first():
    artifacts.write(
      workdir,
      config=config,
      result=result,
      history=run.history,
      table=scl_jax.summary(params, masks, costs=costs),
      masks=masks,
      image_shape=image_shape,
    )
    logging.info('Wrote %s', workdir)
  return result


def fit(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  *,
  make_rule: Callable[[int], scl_jax.MaskRule | None] | None = None,
  params: Any = None,
  model_state: Any = None,
  workdir: str | None = None,
  resume: bool = False,
) -> Run:
  """Trains.

  The seed alone decides the initial weights and the order of the examples, so
  all methods start from the same weights and see the same batches.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    dataset: Its train and validation splits are used.
    make_rule: Makes another rule than the config's, from the number of steps.
    params: Weights to start from, instead of new or the config's ones.
    model_state: BatchNorm's statistics to start from, along with `params`.
    workdir: Where metrics and checkpoints go meanwhile; `None` for nowhere.
    resume: Whether to go on from the newest checkpoint there.

  Returns:
    A `Run`.
  """
  job = preparation.prepare(
    config,
    model,
    dataset,
    make_rule=make_rule,
    params=params,
    model_state=model_state,
    restores=resume and checkpointing.has_checkpoint(workdir),
  )
  return run_job(job, workdir, resume=resume)


def run_job(
  job: preparation.Job, workdir: str | None = None, *, resume: bool = False
) -> Run:
  """Trains what is prepared, once.

  Args:
    job: It; the buffers of its state are used up.
    workdir: See `fit`.
    resume: See `fit`.

  Returns:
    A `Run`.
  """
  config, model, dataset = job.config, job.model, job.dataset
  rule, feed, num_steps, state = job.rule, job.feed, job.num_steps, job.state

  def keep_masks():
    if workdir is not None and config.mask_history and rule is not None:
      masks = get_masks(config, sharding.without_types(state))
      mask_history.write(workdir, int(state.step), masks)

  freeze = job.freeze_step
  history: list[dict[str, float]] = []
  findings: list[str] = []  # of the last point before the freeze
  seconds_before = 0.0
  with checkpointing.Checkpoints(workdir, keep=config.keep_checkpoints) as ckpt:
    if resume and ckpt.newest() is not None:
      state, (history, findings, seconds_before) = ckpt.restore(state)
      jax.tree.map(lambda leaf: leaf.delete(), job.state)  # as a step would
    seconds = lambda: seconds_before + time.perf_counter() - job.start
    with (
      interruption.notice(active=workdir is not None) as requested,
      recording.recorder(
        workdir if hosts.is_first() else None, config, history, num_steps
      ) as record,
    ):
      since_save = 0
      if not history:
        keep_masks()
      for epoch, number, ends_epoch in points(
        config, feed.steps_per_epoch, first_step=int(state.step)
      ):
        first = int(state.step)
        with sharding.use(job.mesh):
          state, metrics = job.run_steps(
            state, job.arrays, feed.batches(first, number)
          )
        point = {
          'step': int(state.step),
          'epoch': epoch,
          **{name: float(value) for name, value in metrics.items()},
          'density': float(scl_jax.density(get_masks(config, state))),
        }
        if dataset.validation.num_examples and ends_epoch:
          now = sharding.without_types(state)
          point['validation_accuracy'] = accuracy(
            model, now.params, dataset.validation, now.model_state
          )
        keep_masks()
        history.append(point)
        record(point)
        if rule is not None and freeze - number <= point['step'] < freeze:
          findings = diagnose(state, num_steps)
        since_save += 1
        is_stopped = hosts.any_of(bool(requested()))
        if (
          since_save == config.points_per_checkpoint
          or point['step'] == num_steps
          or is_stopped
        ):
          progress = checkpointing.Progress(history, findings, seconds())
          ckpt.save(state, progress)
          since_save = 0
        if is_stopped:
          # Another process may have been the one that was asked.
          signum = requested() or signal.SIGTERM
          raise interruption.Interrupted(point['step'], num_steps, signum)

  state = sharding.without_types(state)
  if config.recalibration_batches:
    batches = feed.batches(
      0, min(config.recalibration_batches, feed.steps_per_epoch)
    )
    model_state = evaluation.recalibrate(
      model,
      state.params,
      state.model_state,
      (feed.take(feed.arrays, batch)[0] for batch in batches),
      dataset.train.scaling,
    )
    state = state._replace(model_state=model_state)
  if rule is not None and not findings:
    findings = diagnose(state, num_steps)
  # What a doctor says of a network of NaN is beside the point.
  findings = divergence(history) or findings
  return Run(state, history, freeze, seconds(), findings)


def divergence(history: Sequence[Mapping[str, float]]) -> list[str]:
  """One line if the loss was not finite any more, with the step; else none."""
  lost = itertools.takewhile(
    lambda point: not math.isfinite(point['loss']), reversed(history)
  )
  return [
    f'The loss is not finite from step {step} on: lower the learning rate, or '
    'clip gradients by config.clip_norm.'
    for step in [point['step'] for point in lost][-1:]
  ]


def check_finite(run: Run, name: str) -> None:
  """Raises if the run has diverged, for what cannot be done with such weights.

  Args:
    run: It.
    name: What to call it.

  Raises:
    ValueError: If its loss is not finite at its end, with the step from which.
  """
  for finding in divergence(run.history):
    raise ValueError(f'{name}: {finding}')


def diagnose(state: TrainState, num_steps: int) -> list[str]:
  """What `scl_jax.diagnose` has to say."""
  found = scl_jax.diagnose(state.opt_state, num_steps - int(state.step))
  return [finding.message for finding in found]


def points(
  config: ml_collections.ConfigDict, steps_per_epoch: int, *, first_step: int
) -> Iterator[tuple[int, int, bool]]:
  """The parts of the run after which metrics are taken.

  Args:
    config: Each epoch has `points_per_epoch` parts of about equal length.
    steps_per_epoch: Steps of an epoch.
    first_step: The end of a part, where an interrupted run goes on.

  Yields:
    Tuples of the epoch (from 1), the number of steps, and whether they end the
    epoch.
  """
  parts = min(config.points_per_epoch, steps_per_epoch)
  length, longer = divmod(steps_per_epoch, parts)
  step = 0
  for epoch in range(config.epochs):
    for index in range(parts):
      number = length + (index < longer)
      if step >= first_step:
        yield epoch + 1, number, index == parts - 1
      step += number


def get_masks(config: ml_collections.ConfigDict, state: TrainState) -> Any:
  """The masks of a run; of one without a rule all ones."""
  if config.method not in rules.WITHOUT_MASKS:
    return scl_jax.get_masks(state.opt_state)
  chosen = scl_jax.prunable(state.params)
  return jax.tree.map(
    lambda p, is_prunable: jnp.ones_like(p) if is_prunable else None,
    state.params,
    chosen,
  )
