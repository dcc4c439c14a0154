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
r"""ResNet-20 (He et al., option A) on CIFAR-10 with SCL.

Run it with:

    python -m experiments.main \
        --config=experiments/configs/cifar10_resnet20_scl.py \
        --workdir=workdirs/cifar10_resnet20_scl

and at all densities with `experiments.sweep`; the dense network with
`--config.method=dense --config.target_density=1`. Not run at this length yet:
no result is claimed.
"""

import ml_collections

from experiments.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = cifar10.get_config()
  config.model = 'resnet20'
  return config
