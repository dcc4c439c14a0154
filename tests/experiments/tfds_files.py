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
"""Writes a small image data set in the form of TensorFlow Datasets."""

import json

from array_record.python import array_record_module
import cv2
from tensorflow_datasets.proto import tf_example_pb2


def write(
  folder,
  splits,
  *,
  num_classes=3,
  shape=(None, None, 3),
  dtype='uint8',
  shards=1,
  keys=None,
):
  """Writes `<folder>/tiny/1.0.0`, a data set that has no code in TFDS.

  Args:
    folder: What `TFDS_DATA_DIR` shall be.
    splits: From names to lists of (image or bytes, label).
    num_classes: What the metadata say.
    shape: The same; `None` where images differ.
    dtype: The same.
    shards: Files of each split.
    keys: Names of image and label which the metadata do not tell; `None`: they
      are called that, and the metadata say so.
  """
  names = keys or ('image', 'label')
  path = folder / 'tiny' / '1.0.0'
  path.mkdir(parents=True)
  infos = []
  for split, examples in splits.items():
    lengths = []
    for shard in range(shards):
      part = examples[shard::shards]
      lengths.append(str(len(part)))
      name = f'tiny-{split}.array_record-{shard:05d}-of-{shards:05d}'
      writer = array_record_module.ArrayRecordWriter(
        str(path / name), 'group_size:1'
      )
      for image, label in part:
        writer.write(_serialize(image, label, names))
      writer.close()
    infos.append(
      {
        'name': split,
        'numBytes': '1',
        'shardLengths': lengths,
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }
    )
  image = {
    'dtype': dtype,
    'shape': {'dimensions': [str(-1 if d is None else d) for d in shape]},
  }
  module = 'tensorflow_datasets.core.features'
  features = {
    'pythonClassName': f'{module}.features_dict.FeaturesDict',
    'featuresDict': {
      'features': {
        names[0]: {
          'pythonClassName': f'{module}.image_feature.Image',
          'image': image,
        },
        names[1]: {
          'pythonClassName': f'{module}.class_label_feature.ClassLabel',
          'classLabel': {'numClasses': str(num_classes)},
        },
      }
    },
  }
  items = [{'featureKey': name} for name in names]
  info = {
    'name': 'tiny',
    'version': '1.0.0',
    'fileFormat': 'array_record',
    'splits': infos,
    **({} if keys else {'supervisedKeys': {'tuple': {'items': items}}}),
  }
  (path / 'dataset_info.json').write_text(json.dumps(info))
  (path / 'features.json').write_text(json.dumps(features))
  return path


def _serialize(image, label, names):
  if not isinstance(image, bytes):
    image = cv2.imencode('.png', image[..., ::-1])[1].tobytes()
  example = tf_example_pb2.Example()
  example.features.feature[names[0]].bytes_list.value.append(image)
  example.features.feature[names[1]].int64_list.value.append(label)
  return example.SerializeToString()
