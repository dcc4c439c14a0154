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
"""Arrays on disk, through Orbax."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp


def save(workdir: str, arrays: Any) -> str:
  """Writes a tree of arrays to `<workdir>/checkpoint`, whole or not at all.

  Args:
    workdir: The run's folder.
    arrays: A pytree; `None` holes are kept.

  Returns:
    The checkpoint's path.
  """
  path = os.path.join(os.path.abspath(workdir), 'checkpoint')
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, arrays, force=True)
  return path


def restore(workdir: str, like: Any) -> Any:
  """Reads what `save` wrote.

  Args:
    workdir: The run's folder.
    like: A tree of arrays, or of `jax.ShapeDtypeStruct`, of that structure.

  Returns:
    The tree of arrays.

  Raises:
    FileNotFoundError: If there is no checkpoint.
  """
  path = os.path.join(os.path.abspath(workdir), 'checkpoint')
  if not os.path.isdir(path):
    raise FileNotFoundError(f'There is no checkpoint in {path}.')
  with ocp.StandardCheckpointer() as checkpointer:
    return checkpointer.restore(
      path, jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    )
