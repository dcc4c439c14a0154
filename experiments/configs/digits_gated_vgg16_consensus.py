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
r"""A narrow VGG-16 with gates on channels on scikit-learn's digits, enlarged.

Small enough for a minute or two of a CPU core.

Run it with:

    python -m experiments.main \
        --config=experiments/configs/digits_gated_vgg16_consensus.py \
        --workdir=workdirs/digits_gated_vgg16_consensus

and other shares with `--config.consensus.target=0.35`.
"""

import ml_collections

from experiments.configs import digits_gated_resnet20_consensus


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = digits_gated_resnet20_consensus.get_config()
  config.image_size = 32
  config.model = 'gated_vgg16_narrow'
  config.consensus.costs = 'connections'
  return config
