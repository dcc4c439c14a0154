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


def get_config() -> ml_collections.ConfigDict:
  """The defaults."""
  config = ml_collections.ConfigDict()
  config.dataset = 'mnist'
  config.validation_size = 0
  config.image_size = ml_collections.config_dict.placeholder(int)
  config.model = 'lenet300'
  config.method = 'scl'
  config.dense_reference = True  # also trains the dense network, to compare

  config.seed = 0
  config.epochs = 12
  config.batch_size = 128
  config.learning_rate = 3e-3
  config.points_per_epoch = 4  # how often metrics are taken

  config.penalty = 5e-3  # the price of one connection
  config.freeze_at = 0.75  # share of the run after which masks are fixed
  config.scl = ml_collections.ConfigDict()  # other arguments of scl_jax.scl
  return config
