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
r"""ResNet-8, a small net for runs on a CPU, on CIFAR-10 with SCL.

Run it with:

    python -m experiments.main \
        --config=experiments/configs/cifar10_resnet8_scl.py \
        --workdir=workdirs/cifar10_resnet8_scl

and at all densities with `experiments.sweep`; the dense network with
`--config.method=dense --config.target_density=1`. Choices are made on the
validation split; `cifar10_resnet8_compare` has results.
"""

import ml_collections

from experiments.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = cifar10.get_config()
  config.model = 'resnet8'
  config.epochs = 8
  config.warmup_epochs = 1.0
  config.validation_size = 5000
  config.densities = (1.0, 0.2, 0.1, 0.05, 0.02)
  return config
