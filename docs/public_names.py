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
"""What a user may import; each must be in the API reference.

The build of the site and the tests both ask this.
"""

import importlib
import inspect

import scl_jax

# Besides `scl_jax` itself: the modules that it re-exports, and those that are
# imported by name.
MODULES = (
  'activity',
  'features',
  'gates',
  'inference',
  'nnrelief',
  'rules',
  'scale_polarization',
  'ste',
  'testing',
  'transforms',
)


def public_names() -> set[str]:
  """Functions and classes by dotted name, each where it is shortest."""
  public = {
    name: value
    for name, value in inspect.getmembers(scl_jax)
    if not name.startswith('_') and not inspect.ismodule(value)
  }
  names = {f'scl_jax.{name}' for name in public}
  for module in MODULES:
    path = f'scl_jax.{module}'
    found = importlib.import_module(path)
    # A package re-exports; what another module has imported is not its own.
    home = 'scl_jax.' if hasattr(found, '__path__') else f'{path}.'
    names |= {
      f'{path}.{name}'
      for name, value in vars(found).items()
      if not name.startswith('_')
      and (inspect.isfunction(value) or inspect.isclass(value))
      and f'{value.__module__}.'.startswith(home)
      and value not in public.values()
    }
  return names
