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
"""Which operations are not supported, said by name."""

from scl_jax.graph import nodes


class UnsupportedError(NotImplementedError):
  """A network that cannot run outside JAX, with the operation that is why."""


def unsupported(node: nodes.Node, why: str = '') -> UnsupportedError:
  """The error that names an operation.

  Args:
    node: The operation.
    why: What about it is the matter, such as `' with a batch group'`.

  Returns:
    The error, to be raised.
  """
  return UnsupportedError(
    f'scl_jax.inference does not run the operation {node.name!r}{why}. Run '
    'this network in JAX, or write the operation in terms of others.'
  )
