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
"""All that a run needs, made and checked before its first step."""

from collections.abc import Callable
import functools
import importlib
import time
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments import config_checks
from experiments import evaluation
from experiments import feeds
from experiments import gating
from experiments import host_memory
from experiments import initial
from experiments import input_pipeline
from experiments import optimizers
from experiments import rules
from experiments import sharding
from experiments import training_step
import scl_jax


class Job(NamedTuple):
  """A run that is ready to start.

  Attributes:
    config: Its config.
    model: A Linen module.
    dataset: The data set.
    rule: The rule that trains masks; `None` without masks.
    feed: Where batches come from.
    arrays: What of the feed stays on the devices.
    mesh: Of several devices, else `None`.
    num_steps: The length of the run.
    freeze_step: The step from which on masks are fixed.
    state: The first state; the first step takes its buffers.
    run_steps: Takes steps, see `training_step.make_run_steps`.
    start: When its preparation began, by `time.perf_counter`.
  """

  config: ml_collections.ConfigDict
  model: Any
  dataset: input_pipeline.Dataset
  rule: scl_jax.MaskRule | None
  feed: feeds.Feed
  arrays: Any
  mesh: jax.sharding.Mesh | None
  num_steps: int
  freeze_step: int
  state: training_step.TrainState
  run_steps: training_step.RunSteps
  start: float


def check(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  make_rule: Callable[[int], scl_jax.MaskRule | None],
) -> None:
  """Raises if `prepare` would refuse the config, for one run of many.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    dataset: For the number of steps and the shape of an image.
    make_rule: See `train.fit`.

  Raises:
    ValueError: If the config is bad.
  """
  config_checks.check_numbers(config)
  num_steps = config.epochs * feeds.steps_per_epoch(config, dataset.train)
  make_rule(num_steps)
  optimizers.make_optimizer(config, num_steps)
  gating.make_regularizer(config, model, dataset.train.image_shape, num_steps)


def prepare(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  *,
  make_rule: Callable[[int], scl_jax.MaskRule | None] | None = None,
  params: Any = None,
  model_state: Any = None,
  restores: bool = False,
) -> Job:
  """Makes a run ready; nothing is written.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    dataset: Its train and validation splits are used.
    make_rule: See `train.fit`.
    params: See `train.fit`.
    model_state: See `train.fit`.
    restores: Whether a checkpoint will replace the state, so that the warm
      start, which may be gone, is not read.

  Returns:
    A `Job`.

  Raises:
    ValueError: If the config is bad.
    FileNotFoundError: If the warm start is not there.
    ImportError: If a package is missing that the config needs.
  """
  start = time.perf_counter()
  config_checks.check_numbers(config)
  if config.tensorboard:
    importlib.import_module('tensorboardX')  # if missing, it is said now
  if jax.default_backend() == 'cpu':
    host_memory.keep_freed_memory()
  mesh = sharding.make_mesh(config)
  feed = feeds.make_feed(config, dataset.train, mesh)
  num_steps = config.epochs * feed.steps_per_epoch
  image_shape = dataset.train.image_shape
  if make_rule is None:
    known = rules.arguments_of(config, model, image_shape)
    make_rule = lambda num_steps: rules.rule_of(config, num_steps, **known)
  rule, tx = make_rule(num_steps), optimizers.make_optimizer(config, num_steps)
  if rule is not None:
    tx = scl_jax.sparsify(tx, rule)

  regularizer = gating.make_regularizer(config, model, image_shape, num_steps)
  if params is None and config.warm_start is not None:
    # Read before anything is compiled.
    start_config = config.copy_and_resolve_references()
    if restores:
      start_config.warm_start = None
    params, model_state = initial.initial_variables(
      start_config, model, dataset
    )
  state, shardings = sharding.init_state(
    functools.partial(
      initial.first_state,
      config,
      model,
      dataset,
      tx,
      params=params,
      model_state=model_state,
    ),
    config,
    mesh,
  )
  if config.recalibration_batches:
    evaluation.check_statistics(model, state.model_state)
  step = training_step.make_step(
    config, model, tx, dataset.train.scaling, feed.take, mesh, regularizer
  )
  return Job(
    config=config,
    model=model,
    dataset=dataset,
    rule=rule,
    feed=feed,
    arrays=sharding.replicate(feed.arrays, mesh),
    mesh=mesh,
    num_steps=num_steps,
    freeze_step=rules.freeze_step(config, num_steps),
    state=state,
    run_steps=training_step.make_run_steps(
      step,
      scan=feed.is_in_memory and not training_step.loops_are_slow(state.params),
      shardings=shardings,
    ),
    start=start,
  )
