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
"""Reading data sets."""

import json
import os

import numpy as np
import pytest
import tfds_files

from experiments import input_pipeline


def test_digits():
  dataset = input_pipeline.load_dataset('digits', validation_size=200)
  sizes = [split.num_examples for split in dataset[:3]]
  assert sizes == [1237, 200, 360]
  assert dataset.num_classes == 10
  assert dataset.train.images.shape[1:] == (8, 8, 1)
  assert dataset.train.images.dtype == np.uint8
  assert dataset.train.images.max() == 255
  assert set(dataset.test.labels) == set(range(10))


def test_splits_are_disjoint_and_fixed():
  first = input_pipeline.load_dataset('digits', validation_size=200)
  second = input_pipeline.load_dataset('digits', validation_size=200)
  for a, b in zip(first[:3], second[:3], strict=True):
    np.testing.assert_array_equal(a.images, b.images)
  everything = input_pipeline.load_dataset('digits')
  both = np.concatenate([first.train.images, first.validation.images])
  key = lambda images: sorted(image.tobytes() for image in images)
  assert key(both) == key(everything.train.images)


def test_enlarged_images_hold_the_same_pixels():
  small = input_pipeline.load_dataset('digits').train
  large = input_pipeline.load_dataset('digits', image_size=28).train
  assert large.images.shape[1:] == (28, 28, 1)
  np.testing.assert_array_equal(large.images[:, 2:26:3, 2:26:3], small.images)
  assert not large.images[:, :2].any()


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'validation_size': 1437}, r'in \[0, 1437\).*got 1437'),
    ({'validation_size': -1}, 'validation_size'),
    ({'test_split': 'train[80%:]'}, "fixed: leave config.test_split at 'test'"),
    ({'image_size': 7}, 'image_size must be at least.*8x8; got 7'),
  ],
)
def test_impossible_sizes(arguments, message):
  with pytest.raises(ValueError, match=message):
    input_pipeline.load_dataset('digits', **arguments)


def test_unknown_data_set():
  with pytest.raises(ValueError, match="got 'mnisst'"):
    input_pipeline.load_dataset('mnisst')


def test_a_name_that_is_none():
  with pytest.raises(ValueError, match=r"got '../x'\. \(Parsing builder name"):
    input_pipeline.load_dataset('../x')


def test_a_name_without_its_config(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  for part in ('small/2.1.0', 'large/2.1.0'):
    folder = tmp_path / 'ours' / part
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').touch()
  with pytest.raises(ValueError, match="got 'ours'; there is") as error:
    input_pipeline.load_dataset('ours')
  assert str(error.value).endswith(
    "there is 'ours/large:2.1.0', 'ours/small:2.1.0'."
  )


def test_keys_that_the_metadata_do_not_tell(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  image = np.full((6, 5, 3), 7, np.uint8)
  splits = {'train': [(image, 2), (image, 0)], 'test': [(image, 1)]}
  tfds_files.write(tmp_path, splits, keys=('scan', 'breed'))
  dataset = input_pipeline.load_dataset('tiny')
  np.testing.assert_array_equal(dataset.train.images[0], image)
  assert dataset.train.labels.tolist() == [2, 0]


def test_classes_that_the_metadata_do_not_count(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  image = np.full((6, 5, 3), 7, np.uint8)
  splits = {'train': [(image, 2)], 'test': [(image, 1)]}
  tfds_files.write(tmp_path, splits, num_classes=0)
  with pytest.raises(
    ValueError, match="metadata of 'tiny' must say how many classes 'label' has"
  ):
    input_pipeline.load_dataset('tiny')


def test_channels_that_the_metadata_do_not_count(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  image = np.full((6, 5, 1), 7, np.uint8)
  splits = {'train': [(image, 2)], 'test': [(image, 1)]}
  tfds_files.write(tmp_path, splits, shape=(None, None, None))
  with pytest.raises(
    ValueError, match="must say how many channels 'image' has"
  ):
    input_pipeline.load_dataset('tiny')


@pytest.mark.parametrize('stream', [False, True])
def test_channels_that_are_not_those_of_the_metadata(
  tmp_path, monkeypatch, stream
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  images = [np.full((6, 5, channels), 7, np.uint8) for channels in (3, 4)]
  splits = {'train': [(images[0], 2), (images[1], 0)], 'test': [(images[0], 1)]}
  tfds_files.write(tmp_path, splits)

  def read_all():
    dataset = input_pipeline.load_dataset('tiny', stream=stream, image_size=6)
    return list(dataset.train.blocks(2))

  with pytest.raises(
    ValueError, match=r"Record 1 of 'tiny', split 'train', .*4 channels.*say 3"
  ):
    read_all()


def test_data_set_that_is_not_there(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  with pytest.raises(FileNotFoundError) as error:
    input_pipeline.load_dataset('mnist')
  message = str(error.value)
  assert '(TFDS_DATA_DIR). Reading' in message
  assert str(tmp_path) in message
  assert 'download_and_prepare()' in message
  assert "builder('mnist'" in message


def test_a_data_set_of_another_version(tmp_path, monkeypatch):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  for name in ('1.0.0', 'incomplete.2.0.0', '2.1.0'):
    (tmp_path / 'mnist' / name).mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match=r'; there is 1\.0\.0, 2\.1\.0\.'):
    input_pipeline.load_dataset('mnist')


def test_a_data_set_whose_metadata_are_of_another_version(
  tmp_path, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  folder = tmp_path / 'mnist' / '3.0.1'
  folder.mkdir(parents=True)
  info = {'name': 'mnist', 'version': '1.0.0', 'fileFormat': 'array_record'}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  with pytest.raises(ValueError, match=r"'mnist' in .*: prepare it again"):
    input_pipeline.load_dataset('mnist')


@pytest.mark.skipif(
  not os.path.isdir(os.path.join(os.environ.get('TFDS_DATA_DIR', ''), 'mnist')),
  reason='MNIST is not prepared in TFDS_DATA_DIR',
)
def test_real_mnist():
  dataset = input_pipeline.load_dataset('mnist', validation_size=5000)
  assert [s.num_examples for s in dataset[:3]] == [55_000, 5_000, 10_000]
  assert np.bincount(dataset.test.labels).tolist() == [
      980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
  ]  # fmt: skip
  assert 0.125 < dataset.test.images.mean() / 255 < 0.14
