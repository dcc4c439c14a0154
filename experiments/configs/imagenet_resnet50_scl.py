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
r"""ResNet-50 on ImageNet with SCL.

ImageNet is read from files of TensorFlow Datasets below `TFDS_DATA_DIR`,
prepared with `file_format='array_record'`. Run it with:

    python -m experiments.main \
        --config=experiments/configs/imagenet_resnet50_scl.py \
        --workdir=workdirs/imagenet_resnet50_scl --resume

Not run: no result is claimed.
"""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = default.get_config()
  config.dataset = 'imagenet2012'
  config.validation_size = 10_000
  config.test_split = 'validation'  # the test split of ImageNet has no labels
  config.stream = True
  config.stream_workers = 14
  config.image_size = 224
  config.pixel_mean = (0.485, 0.456, 0.406)
  config.pixel_std = (0.229, 0.224, 0.225)
  config.flip = True
  config.model = 'resnet50'
  config.dtype = 'bfloat16'

  config.epochs = 100
  config.batch_size = 1024
  config.accumulation_steps = 4
  config.label_smoothing = 0.1
  config.optimizer = 'sgd'
  config.optimizer_arguments.momentum = 0.9
  config.optimizer_arguments.nesterov = True
  config.learning_rate = 0.4
  config.warmup_epochs = 5.0
  config.weight_decay = 1e-4
  config.points_per_epoch = 20
  config.points_per_checkpoint = 10
  config.dense_reference = False

  config.target_density = 0.1
  config.scl.ramp = 0.8
  config.recalibration_batches = 50
  config.densities = (1.0, 0.2, 0.1, 0.05)
  config.seeds = 1
  return config
