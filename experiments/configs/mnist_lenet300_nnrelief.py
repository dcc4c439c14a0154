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
r"""LeNet-300-100 on MNIST with NNrelief.

Run it with:

    python -m experiments.nnrelief \
        --config=experiments/configs/mnist_lenet300_nnrelief.py \
        --workdir=workdirs/mnist_lenet300_nnrelief
"""

import ml_collections

from experiments.configs import default


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = default.get_config()
  config.method = 'nnrelief'
  config.alphas = (0.95,)  # the share of activity that is kept
  config.conv_alphas = ()  # of convolutions, as many; the same if empty

  config.nnrelief = ml_collections.ConfigDict()
  config.nnrelief.iterations = 5  # of pruning and retraining
  config.nnrelief.examples = 1000  # whose activity is looked at
  config.nnrelief.cut = 'paper'  # or 'released', see scl_jax.nnrelief
  config.nnrelief.norm = 'mean_of_norms'  # see scl_jax.activity.conv_scores
  return config
