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
"""Where a training step gets its batch from."""

from collections.abc import Callable, Iterable
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import input_pipeline
from experiments import sharding
from experiments import streaming


class Feed(NamedTuple):
  """Batches, as a function of the step alone, so that a run can be resumed.

  Attributes:
    arrays: What stays on the device.
    take: `(arrays, batch) -> (images, labels)`, within the compiled step.
    batches: `(first step, number of steps) -> batches`: rows of the arrays, or
      an iterable of batches that are made meanwhile.
    steps_per_epoch: The number of whole batches in the data.
    is_in_memory: Whether the batches are one array, fit for a scan.
  """

  arrays: Any
  take: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
  batches: Callable[[int, int], Iterable[Any]]
  steps_per_epoch: int
  is_in_memory: bool


def make_feed(
  config: ml_collections.ConfigDict,
  split: input_pipeline.Examples,
  mesh: jax.sharding.Mesh | None = None,
) -> Feed:
  """The feed of a split, in the order that the config's seed decides.

  What does not fill a batch is left out, different examples each epoch. Of
  several processes each reads the part of a batch that its devices take.

  Args:
    config: See `experiments/configs/`.
    split: What is trained on.
    mesh: Of several devices, see `experiments.sharding`.

  Returns:
    A `Feed`.

  Raises:
    ValueError: If the batches do not fit the data.
  """
  steps_per_epoch(config, split)
  if isinstance(split, streaming.Stream):
    return _stream_feed(config, split, mesh)
  if jax.process_count() > 1:
    return _parts_feed(config, split, mesh)
  return _memory_feed(config, split)


def steps_per_epoch(
  config: ml_collections.ConfigDict, split: input_pipeline.Examples
) -> int:
  """The number of whole batches in a split.

  Args:
    config: See `experiments/configs/`.
    split: What is trained on.

  Returns:
    It, at least 1.

  Raises:
    ValueError: If the batches do not fit the data.
  """
  count, size = split.num_examples, config.batch_size
  if not 0 < size <= count:
    raise ValueError(
      'config.batch_size must be between 1 and the number of training '
      f'examples, {count}; got {size}.'
    )
  if config.accumulation_steps < 1 or size % config.accumulation_steps:
    raise ValueError(
      'config.accumulation_steps must be >= 1 and divide config.batch_size, '
      f'{size}; got {config.accumulation_steps}.'
    )
  return count // size


def _memory_feed(
  config: ml_collections.ConfigDict, split: input_pipeline.Split
) -> Feed:
  return Feed(
    arrays=(jnp.asarray(split.images), jnp.asarray(split.labels)),
    take=lambda arrays, rows: (arrays[0][rows], arrays[1][rows]),
    batches=_rows(config, split.num_examples),
    steps_per_epoch=split.num_examples // config.batch_size,
    is_in_memory=True,
  )


def _parts_feed(
  config: ml_collections.ConfigDict,
  split: input_pipeline.Split,
  mesh: jax.sharding.Mesh | None,
) -> Feed:
  size = config.batch_size
  rows_of, places = (
    _rows(config, split.num_examples),
    sharding.places(mesh, size),
  )

  def batches(first: int, number: int) -> Iterable[Any]:
    for rows in rows_of(first, number):
      part = split.images[rows[places]], split.labels[rows[places]]
      yield sharding.join_parts(part, mesh, size)

  return Feed(
    arrays=(),
    take=lambda _, batch: batch,
    batches=batches,
    steps_per_epoch=split.num_examples // size,
    is_in_memory=False,
  )


def _rows(
  config: ml_collections.ConfigDict, count: int
) -> Callable[[int, int], np.ndarray]:
  """The rows of a number of batches, from a first step."""
  size = config.batch_size
  steps = count // size
  _, order_key = jax.random.split(jax.random.key(config.seed))
  permute = jax.jit(lambda key: jax.random.permutation(key, count))

  @functools.lru_cache(maxsize=1)
  def rows_of(epoch: int) -> np.ndarray:
    order = np.asarray(permute(jax.random.fold_in(order_key, epoch)))
    return order[: steps * size].reshape(steps, size)

  def batches(first: int, number: int) -> np.ndarray:
    epoch, start = divmod(first, steps)
    return rows_of(epoch)[start : start + number]

  return batches


def _stream_feed(
  config: ml_collections.ConfigDict,
  split: streaming.Stream,
  mesh: jax.sharding.Mesh | None,
) -> Feed:
  steps = split.num_examples // config.batch_size
  batches_from = lambda first: split.train_batches(
    config.seed,
    config.batch_size,
    first_step=first,
    num_steps=steps * config.epochs,
    places=sharding.places(mesh, config.batch_size),
  )
  place, iterator = -1, iter(())

  def batches(first: int, number: int) -> Iterable[Any]:
    nonlocal place, iterator
    if first != place:  # the start, or where a run goes on
      iterator = batches_from(first)
    place = first + number
    return (
      sharding.join_parts(part, mesh, config.batch_size)
      for part in itertools.islice(iterator, number)
    )

  return Feed(
    arrays=(),
    take=lambda _, batch: batch,
    batches=batches,
    steps_per_epoch=steps,
    is_in_memory=False,
  )
