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
"""What can be known to be wrong before anything is measured."""

from collections.abc import Iterable, Sequence
import os

from experiments import artifacts


def check_output(path: str | None) -> None:
  """Refuses a file that could not be written when all is measured.

  Args:
    path: What `--output` says; `None` writes nothing.

  Raises:
    OSError: If its folder is missing or cannot be written to, or it is itself
      a folder.
  """
  if path is None:
    return
  if os.path.isdir(path):
    raise IsADirectoryError(f'--output={path} is a folder: name a file in it.')
  artifacts.check_writable('--output', os.path.dirname(path) or '.')


def selected(names: Iterable[str], only: Sequence[str] | None) -> list[str]:
  """The names that `--only` selects.

  Args:
    names: All there are.
    only: Parts of names; none selects all.

  Returns:
    The names in which one of the parts is.

  Raises:
    ValueError: If a part is in no name.
  """
  names = list(names)
  for part in only or ():
    if not any(part in name for name in names):
      raise ValueError(
        f'--only={part} must be a part of one of: {"; ".join(names)}.'
      )
  return [n for n in names if not only or any(part in n for part in only)]
