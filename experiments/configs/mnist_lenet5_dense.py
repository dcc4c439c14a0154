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
r"""The dense reference of `mnist_lenet5_scl`.

Run it with:

    python -m experiments.main \
        --config=experiments/configs/mnist_lenet5_dense.py \
        --workdir=workdirs/mnist_lenet5_dense
"""

import ml_collections

from experiments.configs import mnist_lenet5_scl


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = mnist_lenet5_scl.get_config()
  config.method = 'dense'
  config.dense_reference = False
  return config
