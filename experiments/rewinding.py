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
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import activity_pruning
from experiments import augmentation
from experiments import flow as flow_lib
from experiments import input_pipeline
from experiments import rules
from experiments import train
import scl_jax


class Stage(NamedTuple):
  """A trained network of a chain.

  Attributes:
    iteration: How often it was pruned.
    masks: Its masks, also of biases; `None` for the dense network.
    run: Its training.
  """

  iteration: int
  masks: Any
  run: train.Run


def train_dense(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Stage:
  """The network that a chain starts from."""
  dense = rules.dense_config(config)
  return Stage(0, None, train.fit(dense, model, dataset.without_validation()))


def chain(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  dense: Stage,
  alpha: float,
  conv_alpha: float,
) -> Iterator[Stage]:
  """Prunes and retrains, again and again.

  Args:
    config: Its seed is that of `dense`.
    model: A Linen module without normalisation.
    dataset: The train split is used.
    dense: From `train_dense`.
    alpha: The share of activity that dense layers keep.
    conv_alpha: The share that convolutions keep.

  Yields:
    `dense`, and the stage after each iteration.
  """
  settings = config.nnrelief
  if not isinstance(dataset.train, input_pipeline.Split):
    raise ValueError('NNrelief needs config.stream=False: it picks examples.')
  rows = np.random.default_rng(config.seed).permutation(
    dataset.train.num_examples
  )[: settings.examples]
  images = augmentation.scale(
    jnp.asarray(dataset.train.images[rows]), dataset.train.scaling
  )
  stage = dense
  yield stage
  flow = flow_lib.trace(model, {'params': dense.run.state.params}, images)
  for iteration in range(1, settings.iterations + 1):
    pruned = activity_pruning.prune(
      model,
      {'params': stage.run.state.params},
      images,
      alpha=alpha,
      conv_alpha=conv_alpha,
      cut=settings.cut,
      norm=settings.norm,
      flow=flow,
    )
    # The same seed is the same initial weights: that is the rewinding.
    run = train.fit(
      config,
      model,
      dataset.without_validation(),
      make_rule=lambda _, masks=pruned.masks: scl_jax.static_masks(masks),
    )
    stage = Stage(iteration, pruned.masks, run)
    yield stage
