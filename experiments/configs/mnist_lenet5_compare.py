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
r"""All methods on LeNet-5 and MNIST, with the same budget of 10 epochs.

Run it with:

    python -m experiments.compare \
        --config=experiments/configs/mnist_lenet5_compare.py \
        --workdir=experiments/results/mnist_lenet5_compare

Not run so far: a run of 10 epochs takes about 5 minutes of one CPU core, and
the plan has about 300.
"""

import ml_collections

from experiments.configs import mnist_lenet300_compare


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = mnist_lenet300_compare.get_config()
  config.model = 'lenet5'
  config.epochs = 10
  config.nnrelief.iterations = 4  # and so five trainings of 2 epochs each
  return config
