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
"""Rules: the methods that decide masks, one a file."""

from scl_jax.rewiring import RewiringState as RewiringState
from scl_jax.rules.dst import DSTState as DSTState
from scl_jax.rules.dst import dynamic_sparse_training as dynamic_sparse_training
from scl_jax.rules.evolutionary import (
  sparse_evolutionary_training as sparse_evolutionary_training,
)
from scl_jax.rules.magnitude import (
  GradualMagnitudeState as GradualMagnitudeState,
)
from scl_jax.rules.magnitude import gradual_magnitude as gradual_magnitude
from scl_jax.rules.random_pruning import (
  RandomPruningState as RandomPruningState,
)
from scl_jax.rules.random_pruning import random_pruning as random_pruning
from scl_jax.rules.rigl import rigl as rigl
from scl_jax.rules.scl import SCLState as SCLState
from scl_jax.rules.scl import scl as scl
from scl_jax.rules.snip import SNIPState as SNIPState
from scl_jax.rules.snip import snip as snip
from scl_jax.rules.soft_threshold import STRState as STRState
from scl_jax.rules.soft_threshold import soft_threshold as soft_threshold
from scl_jax.rules.static import StaticMasksState as StaticMasksState
from scl_jax.rules.static import static_masks as static_masks
