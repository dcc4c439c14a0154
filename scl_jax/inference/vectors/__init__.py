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
"""Kernels that say which vectors they work on, in LLVM's terms.

What is in registers stays there as long as is said here; a loop in Python,
which numba compiles, would load and store it anew, or not. Numba keeps compiled
functions on disk only if they are made where they are imported, so that this
package, unlike the rest, cannot be imported without it.
"""

from scl_jax.inference import kernels

try:
  import numba as _  # noqa: F401
except ImportError as error:
  raise ImportError(kernels.NEEDS_NUMBA) from error
