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
"""What a run is to end with: a density, one for each layer, or a share of MACs.

A `Target` says how to get there: `scl_jax.control` drives the price of a
connection while masks are trained, one cut at the end makes the result exact.

    target_density=0.05                   one λ and one cut over all leaves
    target_density={'.*/kernel': 0.05}    one λ and one cut for each leaf
    target_macs=0.1                       one λ a multiply-accumulate

Where MACs are the target, a connection of leaf l with c_l MACs costs λ c_l / c,
with c = Σ n_l c_l² / Σ n_l c_l: what the average multiply-accumulate belongs to
pays λ, so that the constants of the controller hold (our derivation).
"""

from scl_jax.targets.choice import choose as choose
from scl_jax.targets.density import of_density as of_density
from scl_jax.targets.density import of_layers as of_layers
from scl_jax.targets.macs import of_macs as of_macs
from scl_jax.targets.target import Densities as Densities
from scl_jax.targets.target import Target as Target
from scl_jax.targets.target import sizes_of as sizes_of
