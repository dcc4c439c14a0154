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
"""What the networks with gates share: the gate, and what they can be asked."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
import jax

from scl_jax import gates


class Gate(nn.Module):
  """The gates of `scl_jax.gates` for one part of a network.

  Attributes:
    num_gates: 1 for a whole block, or the number of channels.
    hidden: Units of its hidden layer.
  """

  num_gates: int = 1
  hidden: int = 16

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps an input [batch, height, width, channels] to [batch, num_gates]."""
    params = self.param(
      'mlp',
      lambda key: gates.init_gate(
        key, x.shape[-1], self.num_gates, hidden=self.hidden
      ),
    )
    return gates.apply_gate(params, x)


def record(module: nn.Module, name: str, decisions: jax.Array) -> None:
  """Puts decisions into the collection `'decisions'` if it is mutable.

  Args:
    module: The whole network.
    name: Under which they are found there.
    decisions: [batch, gates].
  """
  # Not in init, where all is mutable: decisions are no state of the network.
  if module.is_mutable_collection('decisions') and not module.is_initializing():
    module.put_variable('decisions', name, decisions)


@runtime_checkable
class GatedModel(Protocol):
  """A network with gates."""

  def gate_costs(self, layers: Mapping[str, float]) -> dict[str, float]:
    """What a gate closes, from what layers cost.

    Args:
      layers: The cost of each layer, by the name of its module.

    Returns:
      By the name of the decisions, the cost of one of these gates.
    """
    ...

  def without_gates(
    self, closed: Mapping[str, Sequence[int]] | None = None
  ) -> nn.Module:
    """The network whose params have the same names, without gates.

    Args:
      closed: By the name of the decisions the gates that are closed, which
        leaves out closed blocks; closed channels have weights of 0.

    Returns:
      A Linen module.
    """
    ...

  def extract(
    self, variables: Mapping[str, Any], is_open: Mapping[str, Any]
  ) -> tuple[nn.Module, dict[str, Any]]:
    """The static network.

    Args:
      variables: `'params'` and `'batch_stats'`.
      is_open: `gates.consensus` of the decisions on the training set.

    Returns:
      What `without_gates` gives, and its variables.

    Raises:
      ValueError: If `is_open` does not hold one value for each gate.
    """
    ...


def check_open(is_open: Mapping[str, Any], counts: Mapping[str, int]) -> None:
  """Raises unless there is one value for each gate.

  Args:
    is_open: By the name of the decisions.
    counts: By the same names, the number of gates.

  Raises:
    ValueError: If they do not fit.
  """
  if set(is_open) != set(counts):
    raise ValueError(
      f'is_open must hold {", ".join(counts)}; got {", ".join(is_open)}.'
    )
  for name, count in counts.items():
    shape = jax.numpy.shape(is_open[name])
    if shape != (count,):
      raise ValueError(
        'is_open must hold one bool for each gate, as gates.consensus makes '
        f'them: ({count},) for {name!r}; got shape {shape}.'
      )
