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
"""Files that are whole or not there."""

import os
import uuid


def write(path: str | bytes | os.PathLike, data: bytes) -> None:
  """Writes a file, so that no reader ever sees half of it.

  It is written under another name in the same folder and then renamed.

  Args:
    path: The file; one that is there is replaced.
    data: Its content.

  Raises:
    OSError: If it cannot be written; an older file is then still there.
  """
  path = os.fsdecode(path)
  temporary = f'{path}.{uuid.uuid4().hex[:8]}.tmp'
  try:
    with open(temporary, 'xb') as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException as error:
    if os.path.exists(temporary):
      os.remove(temporary)
    if isinstance(error, OSError) and (
      (error.filename, error.filename2) == (temporary, None)
    ):
      error.filename = path  # the one that callers know
    raise
