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
r"""ResNet-20 with a gate on each block but the first of a stage, on CIFAR-10.

Six gates of equal MACs, of which about the share `consensus.target` stays open;
then the static network is extracted (our reconstruction of arXiv 2302.10798).

Run it with:

    python -m experiments.main \
        --config=experiments/configs/cifar10_gated_resnet20_consensus.py \
        --workdir=workdirs/cifar10_gated_resnet20_consensus

and other shares with `--config.consensus.target=0.35`; then measure latency
by `python -m experiments.compact` on that workdir. Not run at this length yet:
no result is claimed.
"""

import ml_collections

from experiments.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = cifar10.get_config()
  config.model = 'gated_resnet20'
  config.method = 'consensus'
  config.consensus.target = 0.5
  config.densities = (0.75, 0.5, 0.35)
  config.seeds = 3
  config.target_density = None
  config.dense_reference = True
  return config
