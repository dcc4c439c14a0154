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

import itertools

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
    'scl': _grid(learning_rate=(3e-3, 5e-3), **{'scl.ramp': (0.3, 0.5, 0.8)}),
    'gradual_magnitude': _grid(
      learning_rate=(3e-3, 5e-3), freeze_at=(0.5, 0.75, 0.9)
    ),
    'lamp': _grid(learning_rate=(3e-3, 5e-3), freeze_at=(0.5, 0.75, 0.9)),
    'rigl': _rewiring('rigl'),
    'set': _rewiring('sparse_evolutionary_training'),
    'snip': _grid(
      learning_rate=(1e-3, 3e-3, 5e-3), **{'snip.num_batches': (1, 20)}
    ),
    'random': _grid(
      learning_rate=(1e-3, 3e-3, 5e-3),
      **{'random_pruning.allocation': ('erdos_renyi', 'uniform')},
    ),
  }
  return config


def _grid(**fields: tuple) -> tuple[dict[str, object], ...]:
  """Every combination."""
  return tuple(
    dict(zip(fields, values, strict=True))
    for values in itertools.product(*fields.values())
  )


def _rewiring(method: str) -> tuple[dict[str, object], ...]:
  return tuple(
    {
      'learning_rate': rate,
      f'{method}.initial_fraction': fraction,
      f'{method}.update_every': every,
    }
    for rate in (3e-3, 5e-3)
    for fraction, every in ((0.3, 100), (0.3, 30), (0.5, 100))
  )
