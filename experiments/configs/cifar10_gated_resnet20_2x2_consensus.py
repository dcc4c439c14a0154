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
r"""The gated ResNet-20 on blocks of 2x2 pixels, on CIFAR-10, in 4 epochs.

The stem sees the 12 channels of 2x2 blocks, so that all maps are half as wide
and high and a run takes a few minutes of one CPU core; else as
`cifar10_gated_resnet20_consensus`.

Run it with:

    python -m experiments.main \
        --config=experiments/configs/cifar10_gated_resnet20_2x2_consensus.py \
        --workdir=workdirs/cifar10_gated_resnet20_2x2_consensus

and all methods, shares and seeds by `python -m experiments.consensus`. Measured
on two CPU cores, three seeds, test split: dense 70.46 ± 0.86 %; with the shares
0.75, 0.5 and 0.35 of the blocks that may close, five, three and two of six,
70.58 ± 0.73, 68.58 ± 0.42 and 67.91 ± 1.20 %;
`experiments/results/cifar10_gated_resnet20_2x2_consensus` has all runs.
"""

import ml_collections

from experiments.configs import cifar10_gated_resnet20_consensus


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = cifar10_gated_resnet20_consensus.get_config()
  config.model = 'gated_resnet20_2x2'
  config.epochs = 4
  config.warmup_epochs = 1.0
  return config
