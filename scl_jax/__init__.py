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
"""scl_jax: sparse connectivity learning in JAX.

    tx = scl_jax.sparsify(optax.adam(3e-3), scl_jax.scl(penalty=5e-3))

is the only change that a training loop needs; see `scl_jax.sparsify`.
"""

import importlib
import typing

from scl_jax import activity as activity
from scl_jax import features as features
from scl_jax import gates as gates
from scl_jax import nnrelief as nnrelief
from scl_jax import scale_polarization as scale_polarization
from scl_jax import ste as ste
from scl_jax.csr import save_csr as save_csr
from scl_jax.csr import to_bcsr as to_bcsr
from scl_jax.distributions import layer_budgets as layer_budgets
from scl_jax.distributions import layer_densities as layer_densities
from scl_jax.export import FileFormatError as FileFormatError
from scl_jax.export import load as load
from scl_jax.export import save as save
from scl_jax.export import save_dense as save_dense
from scl_jax.mask_rule import MaskRule as MaskRule
from scl_jax.masks import apply_masks as apply_masks
from scl_jax.masks import effective_params as effective_params
from scl_jax.masks import init_mask_params as init_mask_params
from scl_jax.metrics import dead_features as dead_features
from scl_jax.metrics import density as density
from scl_jax.metrics import layer_density as layer_density
from scl_jax.metrics import live_connections as live_connections
from scl_jax.prunable import prunable as prunable
from scl_jax.regularizers import connection_count as connection_count
from scl_jax.rewind import rewind as rewind
from scl_jax.rules import SCLState as SCLState
from scl_jax.rules import dynamic_sparse_training as dynamic_sparse_training
from scl_jax.rules import gradual_magnitude as gradual_magnitude
from scl_jax.rules import random_pruning as random_pruning
from scl_jax.rules import rigl as rigl
from scl_jax.rules import scl as scl
from scl_jax.rules import snip as snip
from scl_jax.rules import soft_threshold as soft_threshold
from scl_jax.rules import (
  sparse_evolutionary_training as sparse_evolutionary_training,
)
from scl_jax.rules import static_masks as static_masks
from scl_jax.sparsify import sparsify as sparsify
from scl_jax.state import SparsifyState as SparsifyState
from scl_jax.state import get_masks as get_masks
from scl_jax.state import get_params as get_params
from scl_jax.state import get_sparsify_state as get_sparsify_state
from scl_jax.ste import unit_step as unit_step
from scl_jax.summary import summary as summary
from scl_jax.transforms import add_connection_penalty as add_connection_penalty
from scl_jax.transforms import keep_params_in_box as keep_params_in_box
from scl_jax.transforms import (
  normalize_by_feature_norm as normalize_by_feature_norm,
)

__version__ = '0.1.0'

# What reads the program of a network is imported when it is first asked for: it
# takes twice as long as all else. No function may have the name of its module,
# which would take its place when something else imports it.
_LATE = {
  'CompactModel': 'scl_jax.compaction',
  'Finding': 'scl_jax.doctor',
  'compact': 'scl_jax.compaction',
  'costs': 'scl_jax.macs',
  'diagnose': 'scl_jax.doctor',
  'inference': 'scl_jax.inference',
  'save_onnx': 'scl_jax.deploy',
  'save_stablehlo': 'scl_jax.deploy',
  'testing': 'scl_jax.testing',
}

if typing.TYPE_CHECKING:
  from scl_jax import inference as inference
  from scl_jax import testing as testing
  from scl_jax.compaction import CompactModel as CompactModel
  from scl_jax.compaction import compact as compact
  from scl_jax.deploy import save_onnx as save_onnx
  from scl_jax.deploy import save_stablehlo as save_stablehlo
  from scl_jax.doctor import Finding as Finding
  from scl_jax.doctor import diagnose as diagnose
  from scl_jax.macs import costs as costs
else:

  def __getattr__(name):
    if name not in _LATE:
      raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = importlib.import_module(_LATE[name])
    if value.__name__ != f'{__name__}.{name}':
      value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
  return sorted({*globals(), *_LATE})
