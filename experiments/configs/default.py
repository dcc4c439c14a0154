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
  config.image_size = config_dict.placeholder(int)  # None: as they are
  config.model = 'lenet300'
  config.method = 'scl'  # or 'dense'
  config.dense_reference = True  # trains the dense network, too, to compare

  config.seed = 0
  config.epochs = 12
  config.batch_size = 128
  config.learning_rate = 3e-3
  config.points_per_epoch = 4  # how often metrics are taken

  config.penalty = 5e-3  # the price of one connection
  config.target_density = config_dict.placeholder(float)  # replaces penalty
  config.freeze_at = 0.75  # share of the run after which masks are fixed
  config.scl = ml_collections.ConfigDict()  # other arguments of scl_jax.scl

  # What experiments.sweep trains.
  config.densities = ()  # target densities; 1.0 is the dense network
  config.penalties = ()
  config.seeds = 5
  return config
