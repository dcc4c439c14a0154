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
"""Data sets: small ones are arrays on the device, large ones are streamed."""

from collections.abc import Iterator
from typing import NamedTuple

import ml_collections
import numpy as np
import tqdm

from experiments import augmentation
from experiments import config_checks
from experiments import streaming
from experiments import tfds_source

_BLOCK = 1000  # records at once: twice as fast as one by one


class Split(NamedTuple):
  """Examples of one split.

  Attributes:
    images: uint8, [examples, height, width, channels].
    labels: int32, [examples].
    scaling: How pixels become the model's input, see `augmentation.scale`.
  """

  images: np.ndarray
  labels: np.ndarray
  scaling: augmentation.Scaling | None = None

  def take(self, rows: np.ndarray | slice) -> 'Split':
    """The examples at these rows."""
    return self._replace(images=self.images[rows], labels=self.labels[rows])

  def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All examples in order, up to `size` at once: (images, labels)."""
    for start in range(0, self.num_examples, size):
      rows = slice(start, start + size)
      yield self.images[rows], self.labels[rows]

  @property
  def num_examples(self) -> int:
    """The number of examples."""
    return len(self.labels)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """(height, width, channels)."""
    return self.images.shape[1:]


Examples = Split | streaming.Stream


class Dataset(NamedTuple):
  """A data set.

  Attributes:
    train: What is trained on.
    validation: What choices are made on; may be empty.
    test: What a result is reported on, once.
    num_classes: The number of classes.
  """

  train: Examples
  validation: Examples
  test: Examples
  num_classes: int

  def without_validation(self) -> 'Dataset':
    """The same, but for an empty validation split."""
    return self._replace(validation=self.validation.take(slice(0)))


def from_config(config: ml_collections.ConfigDict) -> Dataset:
  """The data set that a config describes, see `load_dataset`."""
  config_checks.check_numbers(config)
  mean, std = tuple(config.pixel_mean), tuple(config.pixel_std)
  return load_dataset(
    config.dataset,
    validation_size=config.validation_size,
    image_size=config.image_size,
    test_split=config.test_split,
    scaling=(mean, std) if mean or std else None,
    stream=config.stream,
    crop_area=tuple(config.stream_crop_area),
    workers=config.stream_workers,
  )


def load_dataset(
  name: str,
  *,
  validation_size: int = 0,
  image_size: int | None = None,
  test_split: str = 'test',
  scaling: augmentation.Scaling | None = None,
  stream: bool = False,
  crop_area: tuple[float, float] = (0.08, 1.0),
  workers: int = 0,
) -> Dataset:
  """Reads a data set, or opens it to be streamed.

  Args:
    name: `'digits'`, scikit-learn's 1,797 images of 8x8 pixels, which needs no
      files; or the name of an image data set of TensorFlow Datasets that is
      prepared below `TFDS_DATA_DIR` (default: ~/tensorflow_datasets).
    validation_size: How many of the training examples are set aside, the same
      ones each time.
    image_size: Height and width to which smaller images are brought, by
      repeating pixels and a border of zeros; `None` leaves them. Of a stream:
      the size that images are cropped and resized to.
    test_split: The split that is the test split, for data sets that have none
      of that name: ImageNet's `'validation'`; or a part of one, such as
      `'train[80%:]'`, which is then not trained on.
    scaling: Mean and standard deviation of each channel of pixels in [0, 1],
      see `augmentation.scale`.
    stream: Whether examples are read when they are needed, as they do not fit
      into memory.
    crop_area: Of a stream, see `streaming.Stream`.
    workers: Of a stream, see `streaming.Stream`.

  Returns:
    A `Dataset` of uint8 images.

  Raises:
    ValueError: If the sizes are impossible, a split is empty, or a record is
      missing, corrupt or has a label out of range.
    FileNotFoundError: If the data set is not there, with the command that
      fetches it.
  """
  if stream and (image_size is None or name == 'digits'):
    raise ValueError(
      'config.stream needs config.image_size and a data set of TensorFlow '
      f'Datasets; got {image_size} and {name!r}.'
    )
  if name == 'digits':
    if test_split != 'test':
      raise ValueError(
        "The test split of 'digits' is fixed: leave config.test_split at "
        f"'test', got {test_split!r}."
      )
    train, test, num_classes = _load_digits()
  else:
    sources = tfds_source.open_splits(name, ('train', test_split))
    num_classes = sources[0].num_classes
    shape = () if stream else _image_shape(sources[0])
    train, test = (
      streaming.Stream(
        source, np.arange(len(source.records)), image_size, crop_area, workers
      )
      if stream and image_size is not None
      else _read(source, shape)
      for source in sources
    )
  _check_scaling(scaling, train.image_shape[-1])
  train, test = (s._replace(scaling=scaling) for s in (train, test))
  if not 0 <= validation_size < train.num_examples:
    raise ValueError(
      f'config.validation_size must be in [0, {train.num_examples}), the '
      f'number of training examples of {name!r}; got {validation_size}.'
    )
  order = np.random.default_rng(0).permutation(train.num_examples)
  validation, train = (
    train.take(order[:validation_size]),
    train.take(np.sort(order[validation_size:])),
  )
  splits = [
    s._replace(images=_enlarge(s.images, image_size))
    if isinstance(s, Split) and image_size is not None
    else s
    for s in (train, validation, test)
  ]
  return Dataset(*splits, num_classes=num_classes)


def _check_scaling(scaling: augmentation.Scaling | None, channels: int) -> None:
  if scaling is None:
    return
  mean, std = scaling
  if len(mean) != channels or len(std) != channels or min(std) <= 0:
    raise ValueError(
      'config.pixel_mean and config.pixel_std must have one number for each of '
      f'the {channels} channels, the latter > 0; got {mean} and {std}.'
    )


def _load_digits() -> tuple[Split, Split, int]:
  """A fixed fifth of the images is the test split."""
  from sklearn import datasets  # slow to import
  from sklearn import model_selection

  pixels, labels = datasets.load_digits(return_X_y=True)
  images = np.round(pixels * (255 / 16)).astype(np.uint8)
  images = images.reshape(-1, 8, 8, 1)
  labels = labels.astype(np.int32)
  train, test = model_selection.train_test_split(
    np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels
  )
  everything = Split(images, labels)
  return everything.take(np.sort(train)), everything.take(np.sort(test)), 10


def _image_shape(source: tfds_source.Source) -> tuple[int, ...]:
  """That of all images; metadata that leave it open are often of equal ones."""
  if None not in source.image_shape:
    return tuple(size for size in source.image_shape if size is not None)
  first = source.read(range(min(len(source.records), _BLOCK)))
  shape, *others = dict.fromkeys(image.shape for image, _ in first)
  if others:
    raise ValueError(
      f'The images of {source.name!r} are of several sizes, such as {shape} '
      f'and {others[0]}: give config.stream=True and config.image_size.'
    )
  return shape


def _read(source: tfds_source.Source, shape: tuple[int, ...]) -> Split:
  count = len(source.records)
  images = np.empty((count, *shape), np.uint8)
  labels = np.empty(count, np.int32)
  for start in tqdm.trange(
    0,
    count,
    _BLOCK,
    desc=f'reading {source.name}, {source.split}',
    unit_scale=_BLOCK,
    unit='image',
    leave=False,
    disable=None,
  ):
    rows = range(start, min(start + _BLOCK, count))
    for row, (image, label) in zip(rows, source.read(rows), strict=True):
      if image.shape != shape:
        raise ValueError(
          f'Record {row} of {source.name!r}, split {source.split!r}, has the '
          f'shape {image.shape} instead of {shape}: images of several sizes '
          'need config.stream=True and config.image_size.'
        )
      images[row], labels[row] = image, label
  return Split(images, labels)


def _enlarge(images: np.ndarray, size: int) -> np.ndarray:
  height, width = images.shape[1:3]
  factor = size // max(height, width)
  if factor < 1:
    raise ValueError(
      f'config.image_size must be at least that of the images, {height}x'
      f'{width}; got {size}.'
    )
  images = images.repeat(factor, axis=1).repeat(factor, axis=2)
  borders = [
    ((size - d) // 2, size - d - (size - d) // 2) for d in images.shape[1:3]
  ]
  return np.pad(images, [(0, 0), *borders, (0, 0)])
