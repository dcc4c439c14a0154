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

from scl_jax import features as features
from scl_jax import ste as ste
from scl_jax.compaction import CompactModel as CompactModel
from scl_jax.compaction import compact as compact
from scl_jax.costs import costs as costs
from scl_jax.masks import apply_masks as apply_masks
from scl_jax.masks import effective_params as effective_params
from scl_jax.masks import init_mask_params as init_mask_params
from scl_jax.metrics import dead_features as dead_features
from scl_jax.metrics import density as density
from scl_jax.metrics import layer_density as layer_density
from scl_jax.metrics import live_connections as live_connections
from scl_jax.prunable import prunable as prunable
from scl_jax.regularizers import connection_count as connection_count
from scl_jax.rules import SCLState as SCLState
from scl_jax.rules import scl as scl
from scl_jax.sparsify import MaskRule as MaskRule
from scl_jax.sparsify import SparsifyState as SparsifyState
from scl_jax.sparsify import get_masks as get_masks
from scl_jax.sparsify import get_sparsify_state as get_sparsify_state
from scl_jax.sparsify import sparsify as sparsify
from scl_jax.ste import unit_step as unit_step
from scl_jax.summary import summary as summary
from scl_jax.transforms import add_connection_penalty as add_connection_penalty
from scl_jax.transforms import keep_params_in_box as keep_params_in_box
from scl_jax.transforms import (
  normalize_by_feature_norm as normalize_by_feature_norm,
)

__version__ = '0.1.0'
