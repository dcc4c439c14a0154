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
"""Branches that compile nothing where nothing is traced."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jax import core

T = TypeVar('T')


def cond(
  is_true: jax.Array, on_true: Callable[[], T], on_false: Callable[[], T]
) -> T:
  """`jax.lax.cond`; outside of `jit` and the like, an `if`.

  To `jax.lax.cond` a function is a program. One that closes over values is made
  anew in each step, so that without `jit` each step would compile it.

  Args:
    is_true: A scalar of bool.
    on_true: Called if it is true; closes over what it needs.
    on_false: Called if not.

  Returns:
    What the function returns.
  """
  if isinstance(is_true, core.Tracer):
    return jax.lax.cond(is_true, on_true, on_false)
  return on_true() if is_true else on_false()
