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
"""What pyright needs to know: fields of a config may be anything.

Without this it infers their types from the code of `__getattr__`, and each use
of a field as a number would be an error.
"""

from collections.abc import Iterator
from typing import Any

class ConfigDict:
  def __init__(self, initial_dictionary: Any = ...) -> None: ...
  def __getattr__(self, name: str) -> Any: ...
  def __setattr__(self, name: str, value: Any) -> None: ...
  def __getitem__(self, name: str) -> Any: ...
  def __setitem__(self, name: str, value: Any) -> None: ...
  def __iter__(self) -> Iterator[str]: ...
  def get(self, name: str, default: Any = ...) -> Any: ...
  def copy_and_resolve_references(self) -> ConfigDict: ...
  def to_json(self, **kwargs: Any) -> str: ...

config_dict: Any
config_flags: Any
