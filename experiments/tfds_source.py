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
"""Image data sets of TensorFlow Datasets, read without TensorFlow, checked.

Whatever is wrong with the files is said with the data set's name, the split
and the record; what to do about it, too.
"""

from collections.abc import Iterable, Sequence
import glob
import json
import os
import re
import textwrap
from typing import Any, NamedTuple, SupportsIndex

from absl import logging
import numpy as np


class Source(NamedTuple):
  """Records of one split; any of them can be read at any time.

  Attributes:
    name: The data set's name.
    split: The split, in the notation of TensorFlow Datasets.
    records: The data source of TensorFlow Datasets.
    keys: The names of the image and the label in a record.
    image_shape: (height, width, channels); one of the first two is `None` where
      images differ in it.
    num_classes: The number of classes.
  """

  name: str
  split: str
  records: Any
  keys: tuple[str, str]
  image_shape: tuple[int | None, ...]
  num_classes: int

  def read(self, rows: Iterable[SupportsIndex]) -> list[tuple[np.ndarray, int]]:
    """Reads some records; many at once take half the time.

    Args:
      rows: Which ones, at least one.

    Returns:
      Images, uint8 [height, width, channels], and labels.

    Raises:
      ValueError: If a record is missing, corrupt, or its label out of range.
    """
    rows = [row.__index__() for row in rows]
    try:
      records = self.records.__getitems__(rows)
    except Exception:  # of the file format, the parser or the decoder
      records = [self._read_one(row) for row in rows]  # to name the record
    return [
      self._check(row, record)
      for row, record in zip(rows, records, strict=True)
    ]

  def _read_one(self, row: int) -> Any:
    try:
      (record,) = self.records.__getitems__([row])
    except Exception as error:
      raise ValueError(
        f'Record {row} of {self.name!r}, split {self.split!r}, cannot be read: '
        'a file is missing, cut off or corrupt. Prepare the data set again. '
        f'({type(error).__name__}: {error})'
      ) from error
    return record

  def _check(self, row: int, record: Any) -> tuple[np.ndarray, int]:
    image, label = (record[key] for key in self.keys)
    where = f'Record {row} of {self.name!r}, split {self.split!r},'
    if image is None or image.ndim != 3 or image.dtype != np.uint8:
      raise ValueError(f'{where} has no image of uint8 that can be decoded.')
    if image.shape[-1] != self.image_shape[-1]:
      raise ValueError(
        f'{where} has an image of {image.shape[-1]} channels, but the metadata '
        f'say {self.image_shape[-1]}: convert it, and prepare the data set '
        'again.'
      )
    if not 0 <= label < self.num_classes:
      raise ValueError(
        f'{where} has the label {label}, but labels must be in [0, '
        f'{self.num_classes}).'
        + (' The split has no labels.' if label == -1 else '')
      )
    return image, int(label)


def open_splits(name: str, splits: Sequence[str]) -> list[Source]:
  """Opens splits of a data set that is prepared below `TFDS_DATA_DIR`.

  Args:
    name: The data set's name.
    splits: The names of the splits, or parts of them in the notation of
      TensorFlow Datasets, such as `'train[80%:]'`. The first is left without
      what the others take of it.

  Returns:
    A `Source` for each.

  Raises:
    ValueError: If there is no data set of that name, it is not of images with
      one label, a split is not there or empty, or the others take all of the
      first.
    FileNotFoundError: If it is not prepared, with the command that does it.
  """
  from google.protobuf import json_format
  import tensorflow_datasets as tfds  # slow to import

  folder = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
  folder = os.path.expanduser(folder)
  try:
    builder = tfds.builder(name, data_dir=folder)
    found = builder.info.splits
  except (
    AssertionError,
    json.JSONDecodeError,
    json_format.ParseError,
  ) as error:  # about the metadata that lie there
    raise ValueError(
      f'{name!r} in {folder} (TFDS_DATA_DIR) is not what the installed '
      f'tensorflow-datasets expects: prepare it again. ({error})'
    ) from error
  except ValueError as error:
    said = ''
    if not isinstance(error, tfds.core.DatasetNotFoundError):
      said = f' ({textwrap.shorten(str(error), 300)})'
    raise ValueError(
      f"config.dataset must be 'digits' or a data set of TensorFlow Datasets;"
      f' got {name!r}{_prepared(folder, name)}.{said}'
    ) from error
  if not found:
    version, others = builder.version, _versions(os.path.join(folder, name))
    raise FileNotFoundError(
      f'{name!r}, version {version}, is not prepared in {folder} '
      f'(TFDS_DATA_DIR){others}. Reading it '
      'needs no TensorFlow, preparing it once does:\n'
      '  pip install tensorflow-cpu && python -c "import '
      f"tensorflow_datasets as tfds; tfds.builder('{name}', "
      f"data_dir='{folder}', file_format='array_record')"
      '.download_and_prepare()"\n'
      "Or take the embedded data set: config.dataset='digits'."
    )
  logging.info('Reading %s from %s', name, folder)
  for split in splits:
    _check_split(name, found, split)
  first, *others = splits
  return [
    _open_split(builder, name, split)
    for split in (_rest(name, found, first, others), *others)
  ]


def _check_split(name: str, found: Any, split: str) -> None:
  """Raises unless there is such a split, and anything in it."""
  try:
    count = found[split].num_examples
  except (KeyError, ValueError) as error:
    raise ValueError(
      f'{name!r} has no split {split!r}, it has {sorted(found)}; trained on is '
      "'train', and config.test_split says which one is tested on: another, or "
      "a part, such as 'train[80%:]', that is then not trained on."
    ) from error
  if not count:
    raise ValueError(f'The split {split!r} of {name!r} is empty.')


def _rest(name: str, found: Any, split: str, others: Sequence[str]) -> str:
  """A split without what others take of it."""
  import tensorflow_datasets as tfds

  count = found[split].num_examples
  taken = [
    (part.from_ or 0, count if part.to is None else part.to)
    for other in others
    for part in tfds.core.ReadInstruction.from_spec(other).to_absolute(found)
    if part.splitname == split
  ]
  if not taken:
    return split
  rest, start = [], 0
  for first, last in [*sorted(taken), (count, count)]:
    if first > start:
      rest.append(f'{split}[{start}:{first}]')
    start = max(start, last)
  if not rest:
    raise ValueError(
      f'config.test_split={others[0]!r} takes all that {name!r} has to train '
      f"on: test on another split, or on a part, such as '{split}[80%:]'."
    )
  return '+'.join(rest)


def _prepared(folder: str, name: str) -> str:
  """What to say of a name whose config or version is missing or another."""
  base = re.split('[/:]', name)[0]
  paths = [
    path
    for pattern in ('*', '*/*')
    for path in glob.glob(
      f'{pattern}/dataset_info.json', root_dir=os.path.join(folder, base)
    )
  ]
  names = [[base, *path.split(os.sep)[:-1]] for path in sorted(paths)]
  known = [repr('/'.join(parts[:-1]) + f':{parts[-1]}') for parts in names]
  return f'; there is {", ".join(known)}' if base and known else ''


def _versions(folder: str) -> str:
  """What to say of other versions that are prepared."""
  there = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  versions = [name for name in there if re.fullmatch(r'\d+\.\d+\.\d+', name)]
  return f'; there is {", ".join(versions)}' if versions else ''


def _usual_pair(features: Any) -> tuple[str, ...]:
  """Those called image and label, else the only ones of these kinds."""
  import tensorflow_datasets as tfds

  if 'image' in features and 'label' in features:
    return 'image', 'label'
  kinds = tfds.features.Image, tfds.features.ClassLabel
  found = [[k for k in features if isinstance(features[k], c)] for c in kinds]
  return tuple(names[0] for names in found if len(names) == 1)


def _open_split(builder: Any, name: str, split: str) -> Source:
  features = builder.info.features
  keys = builder.info.supervised_keys or _usual_pair(features)
  if len(keys) != 2 or not all(
    isinstance(key, str) and key in features for key in keys
  ):
    raise ValueError(
      f'{name!r} must have an image and a label, named by its metadata or the '
      f'only ones; its features are {sorted(features)}.'
    )
  image, label = (features[key] for key in keys)
  if len(image.shape or ()) != 3 or not hasattr(label, 'num_classes'):
    raise ValueError(
      f'{name!r} must have images with one class each; {keys[0]!r} and '
      f'{keys[1]!r} are {image} and {label}.'
    )
  if image.shape[-1] is None:
    raise ValueError(
      f'The metadata of {name!r} must say how many channels {keys[0]!r} has: '
      'give its Image a shape such as (None, None, 3), and prepare it again.'
    )
  if not label.num_classes:
    raise ValueError(
      f'The metadata of {name!r} must say how many classes {keys[1]!r} has: '
      'give its ClassLabel their number or names, and prepare it again.'
    )
  if np.dtype(image.np_dtype) != np.uint8:
    raise ValueError(
      f'{name!r} has images of {np.dtype(image.np_dtype)}; only those of uint8 '
      'are read.'
    )
  return Source(
    name=name,
    split=split,
    records=builder.as_data_source(split=split),
    keys=keys,
    image_shape=tuple(image.shape),
    num_classes=label.num_classes,
  )
