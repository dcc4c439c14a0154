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
"""Pictures of runs that are out of the ordinary."""

from experiments import plots


def test_a_network_without_loss_or_connections(tmp_path):
  path = tmp_path / 'training.png'
  plots.training(str(path), [{'step': 1, 'loss': 0.0, 'density': 0.0}])
  assert path.read_bytes().startswith(b'\x89PNG')
