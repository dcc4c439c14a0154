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
"""Streaming, end to end, from files that the test writes."""

import collections
import contextlib
import json
import weakref

import numpy as np
import pytest
import tfds_files

from experiments import input_pipeline
from experiments import interruption
from experiments import streaming
from experiments import tfds_source
from experiments import train
from experiments.configs import default

_COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)


def examples(count, seed=0):
  """Noisy images of several sizes, whose colour is their class."""
  rng = np.random.default_rng(seed)
  found = []
  for index in range(count):
    shape = (*rng.integers(20, 40, 2), 3)
    noise = rng.integers(0, 50, shape, dtype=np.uint8)
    found.append((_COLOURS[index % 3] + noise, index % 3))
  return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('tfds')
  tfds_files.write(
    path, {'train': examples(60), 'test': examples(20, 1)}, shards=2
  )
  return path


@pytest.fixture
def stream(folder, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(folder))
  return input_pipeline.load_dataset('tiny', stream=True, image_size=16).train


def collect(stream, *args, **kwargs):
  return list(stream.train_batches(*args, **kwargs))


def assert_equal(first, second):
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


def test_trains_and_resumes(folder, monkeypatch, tmp_path):
  """A perceptron learns the colours; stopped within an epoch, it goes on."""
  monkeypatch.setenv('TFDS_DATA_DIR', str(folder))
  config = default.get_config()
  config.update(
    {
      'dataset': 'tiny', 'stream': True, 'image_size': 8, 'batch_size': 12,
      'epochs': 5, 'points_per_epoch': 2, 'validation_size': 12,
      'dense_reference': False, 'flip': True, 'penalty': 1e-3,
    }
  )  # fmt: skip
  result = train.train_and_evaluate(config, str(tmp_path / 'whole'))
  assert result['test_accuracy'] == 1.0

  calls = []

  @contextlib.contextmanager
  def stop_at_the_third_point(*, active):
    assert active
    yield lambda: len(calls) == 2 or calls.append(None)

  with monkeypatch.context() as patch:
    patch.setattr(interruption, 'notice', stop_at_the_third_point)
    with pytest.raises(interruption.Interrupted, match='at step 6 of 20'):
      train.train_and_evaluate(config, str(tmp_path / 'parts'))
  train.train_and_evaluate(config, str(tmp_path / 'parts'), resume=True)
  whole, parts = (
    (tmp_path / name / 'metrics.jsonl').read_text()
    for name in ('whole', 'parts')
  )
  assert whole == parts


def test_every_epoch_has_every_example_once(stream):
  batches = collect(stream, 0, 20, num_steps=6)
  assert len(batches) == 6
  for images, labels in batches:
    assert images.shape == (20, 16, 16, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(_colour(images), labels)
  for epoch in (batches[:3], batches[3:]):
    labels = np.concatenate([labels for _, labels in epoch])
    assert collections.Counter(labels.tolist()) == {0: 20, 1: 20, 2: 20}
  assert not np.array_equal(batches[0][0], batches[3][0])


def test_goes_on_at_any_step_with_any_number_of_workers(stream):
  whole = collect(stream, 3, 16, num_steps=7)
  assert_equal(collect(stream, 3, 16, first_step=4, num_steps=7), whole[4:])
  with_workers = stream._replace(workers=2)
  found = collect(with_workers, 3, 16, first_step=4, num_steps=7)
  assert_equal(found, whole[4:])
  arrays = [weakref.ref(array) for batch in found for array in batch]
  del found
  assert not any(array() is not None for array in arrays)  # in shared memory
  other = collect(stream, 4, 16, num_steps=1)
  assert not np.array_equal(other[0][0], whole[0][0])


def test_processes_share_each_batch(stream):
  whole = collect(stream, 0, 20, num_steps=4)
  parts = [
    collect(stream, 0, 20, num_steps=4, places=np.arange(p, 20, 2))
    for p in range(2)
  ]
  joined = [
    tuple(
      np.stack(pair, axis=1).reshape(20, *pair[0].shape[1:])
      for pair in zip(a, b, strict=True)
    )
    for a, b in zip(*parts, strict=True)
  ]
  assert_equal(joined, whole)


def test_evaluation_has_every_example_in_order(stream):
  blocks = list(stream.blocks(25))
  assert [len(labels) for _, labels in blocks] == [25, 25, 10]
  # Records lie in two files, the odd ones in the second.
  order = [*range(0, 60, 2), *range(1, 60, 2)]
  labels = np.concatenate([labels for _, labels in blocks])
  np.testing.assert_array_equal(labels, np.array(order) % 3)
  images = np.concatenate([images for images, _ in blocks])
  np.testing.assert_array_equal(_colour(images), labels)


@pytest.mark.parametrize('size', [61, 0])
def test_batches_that_do_not_fit(stream, size):
  with pytest.raises(ValueError, match=f'batch_size.*60.*got {size}'):
    stream.train_batches(0, size, num_steps=1)


def test_crops():
  image = np.arange(32 * 48 * 3, dtype=np.uint32).reshape(32, 48, 3)
  image = (image % 251).astype(np.uint8)
  # All of a square image is that image, resized or not.
  square = np.ascontiguousarray(image[:, :32])
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(streaming.centre_crop(square, 32), square)
  assert streaming.centre_crop(image, 20).shape == (20, 20, 3)
  crops = [streaming.random_crop(rng, image, 8, (0.05, 0.5)) for _ in range(20)]
  assert {crop.shape for crop in crops} == {(8, 8, 3)}
  assert len({crop.tobytes() for crop in crops}) == 20
  # A part that cannot fit: the middle square.
  whole = streaming.random_crop(rng, image, 32, (4.0, 5.0))
  np.testing.assert_array_equal(whole, image[:, 8:40])


def test_in_memory(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8)
  pairs = [(image, index % 3) for index, image in enumerate(images)]
  tfds_files.write(
    tmp_path, {'train': pairs[:6], 'validation': pairs[6:]}, shape=(6, 5, 3)
  )
  dataset = input_pipeline.load_dataset('tiny', test_split='validation')
  np.testing.assert_array_equal(dataset.train.images, images[:6])
  np.testing.assert_array_equal(dataset.test.images, images[6:])
  np.testing.assert_array_equal(dataset.train.labels, [0, 1, 2, 0, 1, 2])
  assert dataset.num_classes == 3
  with pytest.raises(ValueError, match=r"no split 'test'.*'validation'"):
    input_pipeline.load_dataset('tiny')


def write_numbers(folder, splits):
  """Images of equal sizes, which the metadata leave open; each pixel its label.

  Args:
    folder: What `TFDS_DATA_DIR` shall be.
    splits: From names to labels.
  """
  image = lambda label: np.full((6, 5, 3), label, np.uint8)
  tfds_files.write(
    folder,
    {name: [(image(x), x) for x in labels] for name, labels in splits.items()},
    num_classes=10,
    shards=2,
  )


@pytest.mark.parametrize('is_stream', [False, True])
@pytest.mark.parametrize(
  ('test_split', 'part'),
  [
    ('train[80%:]', slice(8, 10)),
    ('train[:3]', slice(0, 3)),
    ('train[20%:50%]', slice(2, 5)),
  ],
)
def test_a_part_of_the_training_split_is_tested_on(
  tmp_path, monkeypatch, test_split, part, is_stream
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  write_numbers(tmp_path, {'train': range(10)})
  order = [*range(0, 10, 2), *range(1, 10, 2)]  # first the first file
  dataset = input_pipeline.load_dataset(
    'tiny', test_split=test_split, stream=is_stream, image_size=6
  )
  labels = {
    name: np.concatenate([y for _, y in getattr(dataset, name).blocks(4)])
    for name in ('train', 'test')
  }
  assert labels['test'].tolist() == order[part]
  del order[part]
  assert labels['train'].tolist() == order


@pytest.mark.parametrize(
  ('test_split', 'message'),
  [
    ('train', r"test_split='train' takes all .*such as 'train\[80%:\]'"),
    ('all', "test_split='all' takes all"),
    ('train[5:]+train[:5]', 'takes all'),
    ('test', "has no split 'test', it has \\['train', 'unlabelled'\\]"),
    ('train[3:99]', 'has no split'),
    ('train[:0]', 'is empty'),
  ],
)
def test_nobody_is_tested_on_what_is_trained_on(
  tmp_path, monkeypatch, test_split, message
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  write_numbers(tmp_path, {'train': range(10), 'unlabelled': [0]})
  with pytest.raises(ValueError, match=message):
    input_pipeline.load_dataset('tiny', test_split=test_split)


def test_equal_sizes_that_the_metadata_leave_open(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  write_numbers(tmp_path, {'train': range(10), 'test': [3]})
  dataset = input_pipeline.load_dataset('tiny')
  assert dataset.train.image_shape == (6, 5, 3)
  np.testing.assert_array_equal(dataset.test.images, np.full((1, 6, 5, 3), 3))


def _colour(images):
  return images.reshape(len(images), -1, 3).mean(axis=1).argmax(axis=-1)


class TestBadFiles:
  def load(self, tmp_path, monkeypatch, **kwargs):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    arguments = {'stream': True, 'image_size': 8, **kwargs}
    dataset = input_pipeline.load_dataset('tiny', **arguments)
    return [labels for _, labels in dataset.train.blocks(5)]

  def write(self, tmp_path, train, **kwargs):
    return tfds_files.write(
      tmp_path, {'train': train, 'test': examples(3)}, **kwargs
    )

  def test_another_dtype(self, tmp_path, monkeypatch):
    self.write(tmp_path, examples(7), dtype='uint16')
    with pytest.raises(ValueError, match="'tiny' has images of uint16; only"):
      self.load(tmp_path, monkeypatch)

  def test_label_out_of_range(self, tmp_path, monkeypatch):
    pairs = examples(7)
    pairs[6] = (pairs[6][0], 3)
    self.write(tmp_path, pairs)
    with pytest.raises(ValueError, match=r'Record 6 .*label 3.*\[0, 3\)'):
      self.load(tmp_path, monkeypatch)

  def test_split_without_labels(self, tmp_path, monkeypatch):
    self.write(tmp_path, [(image, -1) for image, _ in examples(3)])
    with pytest.raises(ValueError, match='The split has no labels'):
      self.load(tmp_path, monkeypatch)

  def test_corrupt_image(self, tmp_path, monkeypatch):
    self.write(tmp_path, [*examples(6), (b'no image', 0)])
    with pytest.raises(ValueError, match=r"Record 6 of 'tiny', split 'train'"):
      self.load(tmp_path, monkeypatch)
    # In any order, as training reads them.
    (source,) = tfds_source.open_splits('tiny', ['train'])
    with pytest.raises(ValueError, match=r"Record 6 of 'tiny'"):
      source.read([5, 6, 0])
    assert [label for _, label in source.read([5, 0])] == [
      examples(6)[row][1] for row in (5, 0)
    ]

  def test_missing_file(self, tmp_path, monkeypatch):
    path = self.write(tmp_path, examples(6), shards=2)
    (path / 'tiny-train.array_record-00001-of-00002').unlink()
    # The second of two files has the second half of the records.
    with pytest.raises(
      ValueError, match=r"Record 3 .*'train'.*missing, cut off"
    ):
      self.load(tmp_path, monkeypatch)

  def test_file_that_is_cut_off(self, tmp_path, monkeypatch):
    path = self.write(tmp_path, examples(6))
    name = path / 'tiny-train.array_record-00000-of-00001'
    name.write_bytes(name.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"'train'.*missing, cut off"):
      self.load(tmp_path, monkeypatch)

  @pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
  def test_metadata_that_are_cut_off(self, tmp_path, monkeypatch, name):
    path = self.write(tmp_path, examples(6)) / name
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"'tiny' in .*: prepare it again"):
      self.load(tmp_path, monkeypatch)

  def test_several_images_as_the_input(self, tmp_path, monkeypatch):
    path = self.write(tmp_path, examples(6)) / 'dataset_info.json'
    info = json.loads(path.read_text())
    feature = {'featureKey': 'image'}
    info['supervisedKeys']['tuple']['items'][0] = {
      'dict': {'dict': {'left': feature, 'right': feature}}
    }
    path.write_text(json.dumps(info))
    with pytest.raises(ValueError, match="'tiny' must have an image and a"):
      self.load(tmp_path, monkeypatch)

  def test_empty_split(self, tmp_path, monkeypatch):
    self.write(tmp_path, [])
    with pytest.raises(ValueError, match="split 'train' of 'tiny' is empty"):
      self.load(tmp_path, monkeypatch)

  def test_images_of_several_sizes_in_memory(self, tmp_path, monkeypatch):
    self.write(tmp_path, examples(6))
    with pytest.raises(ValueError, match=r'config.stream=True'):
      self.load(tmp_path, monkeypatch, stream=False)

  def test_streams_need_a_size(self, tmp_path, monkeypatch):
    self.write(tmp_path, examples(6))
    with pytest.raises(ValueError, match=r'needs config.image_size'):
      self.load(tmp_path, monkeypatch, image_size=None)
