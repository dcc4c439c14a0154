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
"""What all configs share; import it, do not run it."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """The defaults: LeNet-300-100 on MNIST with SCL."""
  config = ml_collections.ConfigDict()
  config.dataset = 'mnist'
  config.validation_size = 0  # training examples set aside for choices
  config.test_split = 'test'  # what a result is reported on; or a part
  config.image_size = config_dict.placeholder(int)  # None: as they are
  config.pixel_mean = ()  # of each channel in [0, 1]; (): pixels stay in [0, 1]
  config.pixel_std = ()
  config.crop_padding = 0  # zeros around an image before it is cut to size
  config.flip = False  # left to right, by chance
  config.stream = False  # for data that is larger than memory
  config.stream_crop_area = (0.08, 1.0)  # shares of an image, for training
  config.stream_workers = 0  # processes that decode; 0: threads of this one
  config.model = 'lenet300'
  config.dtype = config_dict.placeholder(str)  # of activations: 'bfloat16'
  config.method = 'scl'  # or 'dense', or another of experiments.rules
  config.dense_reference = True  # trains the dense network, too, to compare
  config.warm_start = config_dict.placeholder(str)  # workdir of a finished run

  config.seed = 0
  config.epochs = 12
  config.batch_size = 128
  config.accumulation_steps = 1  # parts of a batch that are computed in turn
  config.label_smoothing = 0.0
  config.optimizer = 'adam'  # any of optax, see experiments.optimizers
  config.optimizer_arguments = ml_collections.ConfigDict()
  config.learning_rate = 3e-3
  config.schedule = 'cosine'  # or 'step', 'constant'
  config.schedule_boundaries = (0.5, 0.75)  # shares of the run, for 'step'
  config.schedule_factor = 0.1
  config.warmup_epochs = 0.0
  config.weight_decay = 0.0  # L2, of leaves of rank 2 and more
  config.clip_norm = 0.0  # 0: no clipping
  config.recalibration_batches = 0  # for BatchNorm, at the end
  config.points_per_epoch = 4  # how often metrics are taken
  config.points_per_checkpoint = 20
  config.keep_checkpoints = 2
  config.tensorboard = False  # also writes event files
  config.mask_history = False  # keeps all masks: 1/8 byte a connection, point

  # Several devices, see experiments.sharding; -1: all that are left.
  config.mesh = ml_collections.ConfigDict({'data': 1, 'fsdp': 1, 'tensor': 1})
  config.axis_types = 'auto'  # or 'explicit'
  config.param_axes = (('.*', ()),)  # where each leaf is cut; (): nowhere
  config.distributed = False  # joins other processes, see experiments.hosts

  config.penalty = 5e-3  # the price of one connection
  # Of these one at most, which replaces the penalty; the last two are SCL's.
  config.target_density = config_dict.placeholder(float)
  config.layer_densities = config_dict.placeholder(tuple)  # ((pattern, d), …)
  config.target_macs = config_dict.placeholder(float)  # a share of the MACs
  config.freeze_at = 0.75  # share of the run after which masks are fixed
  config.scl = ml_collections.ConfigDict(  # other arguments of scl_jax.scl
    {
      'ramp': 0.3,
      'mask_optimizer': 0.05,  # the learning rate of mask variables
      'box': 0.3,
      'init_value': 0.3,
      'estimator': 'identity',
      'penalty_order': 'after',
      'feature_price': 0.0,
      'granularity': 'connection',  # or 'feature', or a block as '(4, 4)'
      'mask_dtype': 'float32',
    }
  )
  config.consensus = ml_collections.ConfigDict(  # of experiments.gating.price
    {
      'target': config_dict.placeholder(float),  # the share to leave open
      'costs': 'macs',  # that it is a share of; or 'connections', 'gates'
      'polarization': 1.0,
      'activity': 0.75,
      'ramp': 0.5,
    }
  )

  # What experiments.sweep and experiments.consensus train.
  config.densities = ()  # target densities; 1.0 is the dense network
  config.penalties = ()
  config.methods = ()  # that experiments.consensus trains; (): all of them
  config.seeds = 5
  config.together = config_dict.placeholder(bool)  # None: where it pays
  return config
