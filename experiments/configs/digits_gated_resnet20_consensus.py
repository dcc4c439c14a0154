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
r"""ResNet-20 with gates on blocks on scikit-learn's digits, enlarged.

Small enough for a minute or two of a CPU core; six gates of equal MACs.

Run it with:

    python -m experiments.main \
        --config=experiments/configs/digits_gated_resnet20_consensus.py \
        --workdir=workdirs/digits_gated_resnet20_consensus

and other shares with `--config.consensus.target=0.35`.
"""

import ml_collections

from experiments.configs import digits_mlp_scl


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = digits_mlp_scl.get_config()
  config.image_size = 16
  config.model = 'gated_resnet20'
  config.epochs = 20
  config.optimizer = 'sgd'
  config.optimizer_arguments.momentum = 0.9
  config.optimizer_arguments.nesterov = True
  config.learning_rate = 0.1
  config.warmup_epochs = 1.0
  config.weight_decay = 5e-4
  config.method = 'consensus'
  config.consensus.target = 0.5
  config.densities = (0.75, 0.5, 0.35)
  config.seeds = 3
  return config
