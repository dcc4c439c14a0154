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
"""What a run starts from: the weights of its seed, or of another run."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from experiments import checkpointing
from experiments import input_pipeline
from experiments.training_step import TrainState
from scl_jax import tree as tree_lib


def first_state(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  tx: optax.GradientTransformation,
  *,
  params: Any = None,
  model_state: Any = None,
) -> TrainState:
  """The state before the first step.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    dataset: For the shape of an image.
    tx: The optimizer.
    params: Weights to start from, instead of new or the config's ones.
    model_state: BatchNorm's statistics to start from, along with `params`.

  Returns:
    A `TrainState` of buffers of its own, which may be donated.
  """
  if params is None or model_state is None:
    first = initial_variables(config, model, dataset)
    params = first[0] if params is None else params
    model_state = first[1] if model_state is None else model_state
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=jax.tree.map(jnp.copy, params),
    model_state=jax.tree.map(jnp.copy, model_state),
    # Some optimizers keep what they start from, or one buffer twice.
    opt_state=tree_lib.unshared(tx.init(params), params),
  )


def initial_variables(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> tuple[Any, Any]:
  """Params and model state to start from: the seed's or the warm start's.

  Args:
    config: `warm_start` is the workdir of a finished run of the same model, or
      `None`.
    model: A Linen module.
    dataset: For the shape of an image.

  Returns:
    Params and, for a model with BatchNorm, its statistics.
  """
  init_key, _ = jax.random.split(jax.random.key(config.seed))
  images = jnp.zeros((1, *dataset.train.image_shape))
  params = dict(jax.jit(model.init)(init_key, images))
  model_state = {k: params.pop(k) for k in list(params) if k != 'params'}
  params = params['params']
  if config.warm_start is None:
    return params, model_state
  arrays = checkpointing.restore(
    config.warm_start,
    {'params': params, 'model_state': model_state},
  )
  return arrays['params'], arrays['model_state']
