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
r"""All methods on LeNet-5 and MNIST, with the same budget of 2 epochs.

Run it with:

    python -m experiments.compare \
        --config=experiments/configs/mnist_lenet5_compare.py \
        --workdir=experiments/results/mnist_lenet5_compare

A run takes about a minute of one CPU core, and the plan has about 230. With
more time, `--config.epochs=10 --config.nnrelief.iterations=4` trains for long.
"""

from typing import Any

import ml_collections

from experiments.configs import mnist_lenet300_compare


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = mnist_lenet300_compare.get_config()
  config.model = 'lenet5'
  config.epochs = 2
  config.nnrelief.iterations = 1  # and so two trainings of 1 epoch each

  plan = config.compare
  plan.tuning_densities = (0.02,)
  plan.search_trials = 3
  plan.trials = {
    'scl': _trials({'scl.ramp': 0.6, 'scl.init_value': 0.1}),
    'gradual_magnitude': _trials({'freeze_at': 0.5}),
    'lamp': _trials({'freeze_at': 0.5}),
    'rigl': _trials({'rigl.update_every': 30}),
    'set': _trials({'sparse_evolutionary_training.update_every': 30}),
    'snip': _trials({'snip.num_batches': 20}),
    'random': _trials({'random_pruning.allocation': 'uniform'}),
  }
  return config


def _trials(own: dict[str, Any]) -> tuple[dict[str, Any], ...]:
  """Two learning rates for all, and the second with what is a method's own."""
  first, second = {'learning_rate': 3e-3}, {'learning_rate': 5e-3}
  return first, second, {**second, **own}
