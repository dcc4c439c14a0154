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
"""What a network is worth, and its BatchNorm statistics recomputed."""

from collections.abc import Iterable, Iterator
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import augmentation
from experiments import input_pipeline
from experiments import sharding
from experiments.models import layers

_BLOCK = 1000  # small images at once
_PIXELS = 1000 * 64 * 64  # and of large ones at most that many pixels


def accuracy(
  model: Any,
  params: Any,
  split: input_pipeline.Examples,
  model_state: Any = None,
) -> float:
  """The share of examples that are classified correctly.

  Args:
    model: A Linen module.
    params: Its effective parameters. On a mesh its devices share the examples.
    split: Examples, at least one.
    model_state: BatchNorm's statistics, for models that have them.

  Returns:
    A share in [0, 1].

  Raises:
    ValueError: If the split is empty.
  """
  if not split.num_examples:
    raise ValueError('There is no accuracy on a split without examples.')
  variables = {'params': params, **(model_state or {})}
  correct = 0
  for images, labels in _blocks(split, sharding.mesh_of(params)):
    logits = _predict(model, split.scaling, variables, images)
    correct += int((logits.argmax(-1) == labels).sum())
  return correct / split.num_examples


def decisions(
  model: Any,
  params: Any,
  split: input_pipeline.Examples,
  model_state: Any = None,
) -> dict[str, np.ndarray]:
  """What the gates of a network decide for each example.

  Args:
    model: A Linen module that puts `'decisions'` into a collection.
    params: Its params.
    split: Examples, at least one.
    model_state: BatchNorm's statistics.

  Returns:
    By name, bool [examples, gates].
  """
  variables = {'params': params, **(model_state or {})}
  blocks = [
    jax.tree.map(np.asarray, _decide(model, split.scaling, variables, images))
    for images, _ in _blocks(split, None)
  ]
  return jax.tree.map(lambda *parts: np.concatenate(parts), *blocks)


def some_images(split: input_pipeline.Examples, number: int) -> jax.Array:
  """The first images of a split, as a model takes them.

  Args:
    split: Examples, at least one.
    number: How many; a split of fewer is gone through again, as who asks for a
      batch divides by its size.

  Returns:
    float32 [number, height, width, channels].
  """
  images, _ = next(split.blocks(number))
  images = np.resize(images, (number, *images.shape[1:]))
  return augmentation.scale(jnp.asarray(images), split.scaling)


def _blocks(
  split: input_pipeline.Examples, mesh: jax.sharding.Mesh | None
) -> Iterator[tuple[Any, Any]]:
  """All examples; on a mesh in whole blocks, with labels -1 at the end."""
  height, width, _ = split.image_shape
  size = max(1, min(_BLOCK, _PIXELS // (height * width)))
  if mesh is None:
    yield from split.blocks(size)
    return
  count, parts = split.num_examples, sharding.examples_axis(mesh)
  size = -(-min(size, count) // parts) * parts
  blocks = np.arange(-(-count // size) * size).reshape(-1, size)
  mine = blocks[:, sharding.places(mesh, size)]
  rows = np.minimum(mine, count - 1).ravel()
  found = split.take(rows).blocks(mine.shape[1])
  for block, (images, labels) in zip(mine, found, strict=True):
    labels = np.where(block < count, labels, -1)
    yield sharding.join_parts((images, labels), mesh, size)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predict(model, scaling, variables, images):
  return model.apply(variables, augmentation.scale(images, scaling))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decide(model, scaling, variables, images):
  _, out = model.apply(
    variables, augmentation.scale(images, scaling), mutable=['decisions']
  )
  return jax.tree.map(lambda g: g > 0, out['decisions'])


def recalibrate(
  model: Any,
  params: Any,
  model_state: Any,
  batches: Iterable[jax.Array],
  scaling: augmentation.Scaling | None = None,
) -> Any:
  """BatchNorm's statistics of the final weights, averaged over batches.

  The running ones were taken while weights and masks still moved.

  Args:
    model: A Linen module with BatchNorm from `experiments.models.layers`.
    params: Its effective parameters.
    model_state: Its state; only `batch_stats` change.
    batches: uint8 images of each batch, at least one batch.
    scaling: Of pixels, see `augmentation.scale`.

  Returns:
    A state like `model_state`.

  Raises:
    ValueError: If there is no batch or no BatchNorm.
  """
  check_statistics(model, model_state)
  # From zero, one update leaves (1 - momentum) times the batch's statistics.
  empty = jax.tree.map(lambda x: 0 * x, model_state['batch_stats'])
  total, count = empty, 0
  for images in batches:
    one = _statistics(model, scaling, params, model_state, empty, images)
    total = jax.tree.map(lambda a, b: a + b, total, one)
    count += 1
  if not count:
    raise ValueError('recalibrate needs at least one batch, got none.')
  share = count * (1 - layers.BATCH_NORM_MOMENTUM)
  mean = jax.tree.map(lambda x: x / share, total)
  return {**model_state, 'batch_stats': mean}


def check_statistics(model: Any, model_state: Any) -> None:
  """Raises unless there are statistics of BatchNorm to recalibrate.

  Args:
    model: A Linen module.
    model_state: Its state.

  Raises:
    ValueError: If it has none.
  """
  if 'batch_stats' not in model_state:
    raise ValueError(
      'config.recalibration_batches needs a model with BatchNorm; '
      f'{type(model).__name__} has none.'
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _statistics(model, scaling, params, model_state, empty, images):
  _, updated = model.apply(
    {'params': params, **model_state, 'batch_stats': empty},
    augmentation.scale(images, scaling),
    train=True,
    mutable=['batch_stats'],
  )
  return updated['batch_stats']
