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
"""Images that are larger than memory: decoded by Grain's workers meanwhile.

Which example stands where in which batch, and how it is cropped, is a function
of the seed and the step alone. So a run is resumed exactly by its step,
whatever the number of workers, and several processes read disjoint parts of
each batch.
"""

from collections.abc import Iterator
import dataclasses
import functools
import gc
import math
import signal
from typing import Any, NamedTuple, SupportsIndex

from absl import flags
import numpy as np

from experiments import augmentation
from experiments import tfds_source

Batch = tuple[np.ndarray, np.ndarray]

# Of ImageNet's usual evaluation: the middle 224 of 256 pixels.
_CENTRE = 224 / 256
_THREADS = 4


class Stream(NamedTuple):
  """Examples of one split that are read when they are needed.

  Attributes:
    source: The records.
    rows: Which of them, int64.
    image_size: Height and width that images are brought to.
    crop_area: Smallest and largest share of an image that training sees.
    workers: Processes that decode; 0 for threads of this one.
    scaling: How pixels become the model's input, see `augmentation.scale`.
  """

  source: tfds_source.Source
  rows: np.ndarray
  image_size: int
  crop_area: tuple[float, float] = (0.08, 1.0)
  workers: int = 0
  scaling: augmentation.Scaling | None = None

  @property
  def num_examples(self) -> int:
    """The number of examples."""
    return len(self.rows)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(height, width, channels)."""
    return (
      self.image_size,
      self.image_size,
      int(self.source.image_shape[-1] or 3),
    )

  def take(self, rows: np.ndarray | slice) -> 'Stream':
    """The examples at these rows."""
    return self._replace(rows=self.rows[rows])

  def blocks(self, size: int) -> Iterator[Batch]:
    """All examples in order, up to `size` at once: (images, labels)."""
    return _iterate(_Blocks(self, size), 0, self.workers)

  def train_batches(
    self,
    seed: int,
    batch_size: int,
    *,
    first_step: int = 0,
    num_steps: int,
    places: np.ndarray | None = None,
  ) -> Iterator[Batch]:
    """Batches in random order, randomly cropped.

    Args:
      seed: It decides order and crops.
      batch_size: Of all processes together.
      first_step: The first batch, counted from the start of the run.
      num_steps: The batch after the last one.
      places: Which places of each batch this process reads; `None`: all.

    Returns:
      An iterator of images, uint8 [batch, height, width, channels], and
      labels, int32 [batch].

    Raises:
      ValueError: If the batch does not fit.
    """
    if not 0 < batch_size <= self.num_examples:
      raise ValueError(
        'batch_size must be between 1 and the number of examples, '
        f'{self.num_examples}; got {batch_size}.'
      )
    if places is None:
      places = np.arange(batch_size)
    batches = _TrainBatches(self, seed, batch_size, num_steps, places)
    return _iterate(batches, first_step, self.workers)


@dataclasses.dataclass(frozen=True)
class _Blocks:
  """The batches of an evaluation, by their index."""

  stream: Stream
  size: int

  def __len__(self) -> int:
    return math.ceil(self.stream.num_examples / self.size)

  def __getitem__(self, index: SupportsIndex) -> Batch:
    start = int(index) * self.size
    found = self.stream.source.read(self.stream.rows[start : start + self.size])
    crop = lambda image: centre_crop(image, self.stream.image_size)
    return (
      np.stack([crop(image) for image, _ in found]),
      np.array([label for _, label in found], np.int32),
    )


@dataclasses.dataclass(frozen=True)
class _TrainBatches:
  """The batches of a training run, by their step."""

  stream: Stream
  seed: int
  batch_size: int
  num_steps: int
  places: np.ndarray

  def __len__(self) -> int:
    return self.num_steps

  def __getitem__(self, index: SupportsIndex) -> Batch:
    stream, step = self.stream, int(index)
    epoch, batch = divmod(step, stream.num_examples // self.batch_size)
    places = batch * self.batch_size + self.places
    order = _order(self.seed, epoch, stream.num_examples)
    found = stream.source.read(stream.rows[order[places]])
    images = [
      random_crop(
        # A place in the run has its own numbers, whoever reads it.
        np.random.default_rng([self.seed, epoch, int(place)]),
        image,
        stream.image_size,
        stream.crop_area,
      )
      for place, (image, _) in zip(places, found, strict=True)
    ]
    return np.stack(images), np.array([label for _, label in found], np.int32)


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
  return np.random.default_rng([seed, epoch]).permutation(count)


def _iterate(batches: Any, first: int, workers: int) -> Iterator[Batch]:
  import grain  # slow to import

  if workers and not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain hands them to its workers
  options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=4)
  dataset = grain.MapDataset.source(batches)[first:].to_iter_dataset(options)
  if workers:
    dataset = dataset.mp_prefetch(
      grain.MultiprocessingOptions(workers), worker_init_fn=_ignore_interrupts
    )
  iterator = iter(dataset)
  try:
    yield from iterator
  finally:
    iterator.close()
    if workers:
      # Grain's cycles hold the last batches, which lie in shared memory.
      del iterator, dataset
      gc.collect()


def _ignore_interrupts(*_: int) -> None:
  """Ctrl-C reaches workers, too; the run closes them."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)


def random_crop(
  rng: np.random.Generator,
  image: np.ndarray,
  size: int,
  area: tuple[float, float],
) -> np.ndarray:
  """A random part of an image, as in training on ImageNet.

  Args:
    rng: What decides.
    image: uint8, [height, width, channels].
    size: Height and width of the result.
    area: Smallest and largest share of the image. The part's aspect ratio lies
      between 3/4 and 4/3; where ten tries do not fit, it is the middle.

  Returns:
    uint8, [size, size, channels].
  """
  height, width = image.shape[:2]
  for _ in range(10):
    pixels = rng.uniform(*area) * height * width
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    h = round(math.sqrt(pixels / ratio))
    w = round(math.sqrt(pixels * ratio))
    if 0 < h <= height and 0 < w <= width:
      i, j = rng.integers(height - h + 1), rng.integers(width - w + 1)
      return _resize(image[i : i + h, j : j + w], size)
  edge = min(height, width)
  i, j = (height - edge) // 2, (width - edge) // 2
  return _resize(image[i : i + edge, j : j + edge], size)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
  """The middle of an image, 7/8 of its shorter edge.

  Args:
    image: uint8, [height, width, channels].
    size: Height and width of the result. An image of that size is left as it
      is.

  Returns:
    uint8, [size, size, channels].
  """
  height, width = image.shape[:2]
  if height == width == size:
    return image
  edge = max(1, round(_CENTRE * min(height, width)))
  i, j = (height - edge) // 2, (width - edge) // 2
  return _resize(image[i : i + edge, j : j + edge], size)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
  import cv2  # the decoder of tensorflow-datasets

  height, width = image.shape[:2]
  if height == width == size:
    return image
  method = cv2.INTER_AREA if min(height, width) > size else cv2.INTER_LINEAR
  resized = cv2.resize(image, (size, size), interpolation=method)
  return resized.reshape(size, size, image.shape[2])  # cv2 drops one channel
