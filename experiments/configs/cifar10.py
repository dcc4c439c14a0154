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
"""What the CIFAR-10 configs share; import it, do not run it.

The usual recipe of residual nets: crops and flips, SGD with Nesterov's momentum
0.9, batches of 128, L2 decay 5e-4 of what is live, 5 epochs of warm-up to 0.1,
then a cosine to 0.
"""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = default.get_config()
  config.dataset = 'cifar10'
  config.pixel_mean = (0.4914, 0.4822, 0.4465)
  config.pixel_std = (0.2470, 0.2435, 0.2616)
  config.crop_padding = 4
  config.flip = True

  config.epochs = 160
  config.optimizer = 'sgd'
  config.optimizer_arguments.momentum = 0.9
  config.optimizer_arguments.nesterov = True
  config.learning_rate = 0.1
  config.warmup_epochs = 5.0
  config.weight_decay = 5e-4
  config.points_per_epoch = 1
  config.points_per_checkpoint = 10
  config.dense_reference = False

  config.target_density = 0.05
  config.scl.ramp = 0.8
  config.scl.mask_optimizer = 0.03
  config.recalibration_batches = 50
  config.densities = (1.0, 0.1, 0.05, 0.02, 0.01)
  config.seeds = 3
  return config
