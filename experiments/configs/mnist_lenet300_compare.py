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
r"""All methods on LeNet-300-100 and MNIST, with the same budget of 12 epochs.

Run it with:

    python -m experiments.compare \
        --config=experiments/configs/mnist_lenet300_compare.py \
        --workdir=experiments/results/mnist_lenet300_compare
"""

from typing import Any

import ml_collections

from experiments.configs import mnist_lenet300_scl


def get_config() -> ml_collections.ConfigDict:
  """See the module's docstring."""
  config = mnist_lenet300_scl.get_config()
  config.points_per_epoch = 1
  config.nnrelief = ml_collections.ConfigDict()
  config.nnrelief.iterations = 3  # and so four trainings of 3 epochs each
  config.nnrelief.cut_share = 0.05  # 1 - α
  config.nnrelief.examples = 1000
  config.nnrelief.cut = 'paper'
  config.nnrelief.norm = 'mean_of_norms'

  plan = config.compare = ml_collections.ConfigDict()
  plan.methods = (
    'scl',
    'gradual_magnitude',
    'lamp',
    'rigl',
    'set',
    'snip',
    'dst',
    'str',
    'nnrelief',
    'random',
    'shuffled',
  )
  plan.densities = (0.1, 0.05, 0.02, 0.01, 0.005)
  plan.seeds = 3
  plan.tuning_densities = (0.05, 0.01)
  plan.tuning_examples = 10_000
  plan.search_trials = 6  # of methods that cannot be asked for a density
  plan.trials = {
    'scl': _trials({'scl.ramp': 0.5}, {'scl.ramp': 0.8}),
    'gradual_magnitude': _trials({'freeze_at': 0.5}, {'freeze_at': 0.9}),
    'lamp': _trials({'freeze_at': 0.5}, {'freeze_at': 0.9}),
    'rigl': _trials({'rigl.update_every': 30}, {'rigl.initial_fraction': 0.5}),
    'set': _trials(
      {'sparse_evolutionary_training.update_every': 30},
      {'sparse_evolutionary_training.initial_fraction': 0.5},
    ),
    'snip': _trials({'snip.num_batches': 20}, {'learning_rate': 1e-3}),
    'random': _trials(
      {'random_pruning.allocation': 'uniform'}, {'learning_rate': 1e-3}
    ),
  }
  return config


def _trials(*own: dict[str, Any]) -> tuple[dict[str, Any], ...]:
  """What every method may try, and what it alone may."""
  shared: tuple[dict[str, Any], ...] = tuple(
    {'learning_rate': rate, 'label_smoothing': smoothing}
    for rate in (3e-3, 5e-3)
    for smoothing in (0.0, 0.1)
  )
  return shared + own
