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
r"""SCL, gradual magnitude, LAMP and RigL on ResNet-8 and CIFAR-10, in 6 epochs.

Small enough for two CPU cores: a run takes about 2 minutes of a quiet one.

Run it with:

    python -m experiments.compare \
        --config=experiments/configs/cifar10_resnet8_compare.py \
        --workdir=experiments/results/cifar10_resnet8_compare
"""

from typing import Any

import ml_collections

from experiments.configs import cifar10_resnet8_scl


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = cifar10_resnet8_scl.get_config()
  config.epochs = 6

  plan = config.compare = ml_collections.ConfigDict()
  plan.methods = ('scl', 'gradual_magnitude', 'lamp', 'rigl')
  plan.densities = (0.2, 0.1, 0.05, 0.02)
  plan.seeds = 5
  plan.tuning_densities = (0.05,)
  plan.tuning_examples = 5000
  plan.search_trials = 3  # of methods that cannot be asked for a density
  plan.trials = {
    'scl': _trials({'freeze_at': 0.9, 'scl.mask_optimizer': 0.05}),
    'gradual_magnitude': _trials({'freeze_at': 0.9}),
    'lamp': _trials({'freeze_at': 0.9}),
    'rigl': _trials({'rigl.update_every': 30}),
  }
  return config


def _trials(own: dict[str, Any]) -> tuple[dict[str, Any], ...]:
  """What every method may try, and what it alone may."""
  return (
    {'learning_rate': 0.1},
    {'learning_rate': 0.2},
    {'learning_rate': 0.2, **own},
  )
