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
"""Data sets as arrays: small ones are read whole and live on the device."""

from collections.abc import Iterator
import os
from typing import Any, NamedTuple

from absl import logging
import ml_collections
import numpy as np

from experiments import augmentation


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


class Dataset(NamedTuple):
  """A data set in memory.

  Attributes:
    train: What is trained on.
    validation: What choices are made on; may be empty.
    test: What a result is reported on, once.
    num_classes: The number of classes.
  """

  train: Split
  validation: Split
  test: Split
  num_classes: int


def from_config(config: ml_collections.ConfigDict) -> Dataset:
  """The data set that a config describes, see `load_dataset`."""
  return load_dataset(
    config.dataset,
    validation_size=config.validation_size,
    image_size=config.image_size,
  )


def load_dataset(
  name: str, *, validation_size: int = 0, image_size: int | None = None
) -> Dataset:
  """Reads a data set.

  Args:
    name: `'digits'`, scikit-learn's 1,797 images of 8x8 pixels, which needs no
      files; or the name of an image data set of TensorFlow Datasets that is
      prepared below `TFDS_DATA_DIR` (default: ~/tensorflow_datasets).
    validation_size: How many of the training examples are set aside, the same
      ones each time.
    image_size: Height and width to which smaller images are brought, by
      repeating pixels and a border of zeros; `None` leaves them.

  Returns:
    A `Dataset` of uint8 images.

  Raises:
    ValueError: If the sizes are impossible.
    FileNotFoundError: If the data set is not there, with the command that
      fetches it.
  """
  train, test, num_classes = (
    _load_digits() if name == 'digits' else _load_tfds(name)
  )
  if not 0 <= validation_size < train.num_examples:
    raise ValueError(
      f'validation_size must be in [0, {train.num_examples}), the number of '
      f'training examples of {name!r}; got {validation_size}.'
    )
  order = np.random.default_rng(0).permutation(train.num_examples)
  validation, train = (
    train.take(order[:validation_size]),
    train.take(np.sort(order[validation_size:])),
  )
  splits = (train, validation, test)
  if image_size is not None:
    splits = [s._replace(images=_enlarge(s.images, image_size)) for s in splits]
  return Dataset(*splits, num_classes=num_classes)


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


def _load_tfds(name: str) -> tuple[Split, Split, int]:
  import tensorflow_datasets as tfds  # slow to import

  folder = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  folder = os.path.expanduser(folder)
  try:
    builder = tfds.builder(name, data_dir=folder)
    splits = builder.info.splits
  except tfds.core.DatasetNotFoundError as error:
    raise ValueError(
      f"config.dataset must be 'digits' or a data set of TensorFlow Datasets;"
      f' got {name!r}.'
    ) from error
  if not {'train', 'test'} <= set(splits):
    raise FileNotFoundError(
      f'{name!r} is not prepared in {folder} (TFDS_DATA_DIR). Reading it '
      'needs no TensorFlow, preparing it once does:\n'
      '  pip install tensorflow-cpu && python -c "import '
      f"tensorflow_datasets as tfds; tfds.builder('{name}', "
      f"data_dir='{folder}', file_format='array_record')"
      '.download_and_prepare()"\n'
      "Or take the embedded data set: config.dataset='digits'."
    )
  logging.info('Reading %s from %s', name, folder)
  return (
    _read_split(builder, 'train'),
    _read_split(builder, 'test'),
    _num_classes(builder),
  )


def _num_classes(builder: Any) -> int:
  return builder.info.features['label'].num_classes


def _read_split(builder: Any, split: str) -> Split:
  source = builder.as_data_source(split=split)
  count = len(source)
  images = np.empty((count, *builder.info.features['image'].shape), np.uint8)
  labels = np.empty(count, np.int32)
  block = 1000  # records at once: twice as fast as one by one
  for start in range(0, count, block):
    rows = range(start, min(start + block, count))
    for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
      images[row], labels[row] = example['image'], example['label']
  return Split(images, labels)


def _enlarge(images: np.ndarray, size: int) -> np.ndarray:
  height, width = images.shape[1:3]
  factor = size // max(height, width)
  if factor < 1:
    raise ValueError(
      f'image_size must be at least that of the images, {height}x{width}; '
      f'got {size}.'
    )
  images = images.repeat(factor, axis=1).repeat(factor, axis=2)
  borders = [
    ((size - d) // 2, size - d - (size - d) // 2) for d in images.shape[1:3]
  ]
  return np.pad(images, [(0, 0), *borders, (0, 0)])
