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
"""A chain of networks: prune by activity, rewind, retrain, again."""

from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import activity_pruning
from experiments import config_checks
from experiments import evaluation
from experiments import flow as flow_lib
from experiments import initial
from experiments import input_pipeline
from experiments import rules
from experiments import train
import scl_jax
from scl_jax import activity
from scl_jax import checks
from scl_jax import nnrelief


class Stage(NamedTuple):
  """A trained network of a chain.

  Attributes:
    iteration: How often it was pruned.
    masks: Its masks, also of biases; of the dense network all 1.
    run: Its training.
  """

  iteration: int
  masks: Any
  run: train.Run


def check(config: ml_collections.ConfigDict) -> None:
  """Raises unless a chain of this config can be run, before it is.

  Args:
    config: With `nnrelief`, and `stream`.

  Raises:
    ValueError: If a field is missing or out of range, with its name.
  """
  names = ('iterations', 'examples', 'cut', 'norm')
  config_checks.require_fields(
    config,
    [f'nnrelief.{name}' for name in names],
    'mnist_lenet300_nnrelief.py',
  )
  settings = config.nnrelief
  for name in ('iterations', 'examples'):
    checks.check_whole(f'config.nnrelief.{name}', settings[name], 1)
  for name, choices in (('cut', nnrelief.Cut), ('norm', activity.Norm)):
    checks.check_choice(
      f'config.nnrelief.{name}', settings[name], get_args(choices)
    )
  if config.get('stream'):
    raise ValueError('NNrelief needs config.stream=False: it picks examples.')


def trace(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> flow_lib.Flow:
  """Who feeds whom in the model, the same for all seeds.

  Args:
    config: See `chain`.
    model: A Linen module.
    dataset: For the shape of an image.

  Returns:
    A `Flow`.

  Raises:
    ValueError: If NNrelief does not support the model.
  """
  params, model_state = initial.initial_variables(config, model, dataset)
  return activity_pruning.trace(
    model,
    {'params': params, **model_state},
    jnp.zeros((1, *dataset.train.image_shape)),
  )


def train_dense(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Stage:
  """The network that a chain starts from."""
  dense = rules.dense_config(config)
  run = train.fit(dense, model, dataset.without_validation())
  return Stage(0, jax.tree.map(jnp.ones_like, run.state.params), run)


def chain(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  dense: Stage,
  flow: flow_lib.Flow,
  alpha: float,
  conv_alpha: float,
) -> Iterator[Stage]:
  """Prunes and retrains, again and again.

  Each training starts from the weights and the statistics of BatchNorm of the
  seed; gates of joins stay as they were cut.

  Args:
    config: Its seed is that of `dense`.
    model: A Linen module, see `experiments.activity_pruning.prune`.
    dataset: The train split is used, which must be in memory.
    dense: From `train_dense`.
    flow: From `trace`.
    alpha: The share of activity that dense layers keep.
    conv_alpha: The share that convolutions and joins keep.

  Yields:
    `dense`, and the stage after each iteration; nothing after one that has
    diverged, whose activities say nothing.
  """
  settings = config.nnrelief
  rows = np.random.default_rng(config.seed).permutation(
    dataset.train.num_examples
  )[: settings.examples]
  images = evaluation.some_images(dataset.train.take(rows), len(rows))
  params, model_state = initial.initial_variables(config, model, dataset)
  stage = dense
  yield stage
  for iteration in range(1, settings.iterations + 1):
    if train.divergence(stage.run.history):
      return
    state = stage.run.state
    pruned = activity_pruning.prune(
      model,
      {'params': state.params, **state.model_state},
      images,
      alpha=alpha,
      conv_alpha=conv_alpha,
      cut=settings.cut,
      norm=settings.norm,
      flow=flow,
    )
    gates = {'gates': pruned.gates} if pruned.gates else {}
    run = train.fit(
      config,
      model,
      dataset.without_validation(),
      make_rule=lambda _, masks=pruned.masks: scl_jax.static_masks(masks),
      params=params,
      model_state={**model_state, **gates},
    )
    stage = Stage(iteration, pruned.masks, run)
    yield stage
