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
"""What a finished run of `experiments.main` left: its network, and its data."""

from collections.abc import Callable, Sequence
import os
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments import artifacts
from experiments import checkpointing
from experiments import evaluation
from experiments import input_pipeline
from experiments import models
from scl_jax import tree as tree_lib


class FinishedRun(NamedTuple):
  """A trained network.

  Attributes:
    config: The config of the run.
    result: What is in its `result.json`.
    network: `(params, images) -> logits`, with BatchNorm in eval mode.
    params: The effective parameters.
    masks: The masks, `None` at leaves that are not prunable.
    images: Test images as the network takes them, [examples, ...].
  """

  config: ml_collections.ConfigDict
  result: dict[str, Any]
  network: Callable[[Any, jax.Array], Any]
  params: Any
  masks: Any
  images: jax.Array


def load(workdir: str, *, num_images: int) -> FinishedRun:
  """Reads a run.

  Args:
    workdir: The folder in which `train_and_evaluate` left its results.
    num_images: How many test images to give, see `evaluation.some_images`.

  Returns:
    A `FinishedRun`.

  Raises:
    FileNotFoundError: If there is no finished run, or no data.
  """
  config = _read_json(workdir, 'config', ('model', 'dataset', 'method'))
  result = _read_json(workdir, 'result')
  config = ml_collections.ConfigDict(artifacts.with_newer_fields(config))
  dataset = input_pipeline.from_config(config)
  model = models.create_model(config.model, dataset.num_classes, config.dtype)
  if config.method == 'consensus':
    model = model.without_gates(result['closed'])
  images = evaluation.some_images(dataset.test, num_images)
  arrays = checkpointing.restore(workdir, _like(workdir, model, images[:1]))

  def network(params, images):
    return model.apply({'params': params, **arrays['model_state']}, images)

  return FinishedRun(
    config, result, network, arrays['params'], arrays['masks'], images
  )


def _read_json(
  workdir: str, name: str, needs: Sequence[str] = ()
) -> dict[str, Any]:
  path = os.path.join(workdir, f'{name}.json')
  if not os.path.exists(path):
    raise FileNotFoundError(
      f'There is no {path}: train first, with python -m experiments.main '
      f'--workdir={workdir}.'
    )
  return artifacts.read_json(path, needs)


def _like(workdir: str, model: Any, images: jax.Array) -> dict[str, Any]:
  """The shapes of what the run kept, without any computation.

  Which leaves have masks, the checkpoint tells: the rule that made them may be
  one of many steps, or of none.
  """
  model_state = dict(jax.eval_shape(model.init, jax.random.key(0), images))
  params = model_state.pop('params')
  stored = checkpointing.stored_leaves(workdir)

  def mask_of(path, leaf):
    mask = stored.get(f'masks/{path}')
    if mask is None:
      return None
    return jax.ShapeDtypeStruct(leaf.shape, mask.dtype)

  return {
    'params': params,
    'masks': tree_lib.map_with_path(mask_of, params),
    'model_state': model_state,
  }
