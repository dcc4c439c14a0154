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
"""What XLA was told, where a program is best written for it."""

import os

import jax

MULTI_OUTPUT_FUSION = 'xla_cpu_use_multi_output_fusion'


def joins_loops() -> bool:
  """Whether XLA writes several results in one loop over memory on a CPU.

  Returns:
    Whether the backend is a CPU and `XLA_FLAGS` names the option:
    `--xla_backend_extra_options=xla_cpu_use_multi_output_fusion`.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  return MULTI_OUTPUT_FUSION in flags and jax.default_backend() == 'cpu'
