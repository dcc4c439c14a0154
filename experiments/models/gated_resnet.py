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
"""Residual networks with a gate on each block, and the network that is left.

A reconstruction of the consensus sub-network (arXiv 2302.10798), whose code and
equations were not published: see `scl_jax.gates`. Without gates these are the
networks of `resnet`, whose params have the same names here.

A gate sees the input of its block and multiplies what the branch adds to the
shortcut, behind its last BatchNorm. All examples pass through the branch, also
those for which it is closed, and so enter BatchNorm's statistics. In the static
network, which `extract` makes, an open block sees all examples, too.

The first block of each stage has no gate, so that no stage loses all of its
blocks, in training or afterwards; `every_block` gives it one, and what is left
of it when it is closed is its bare shortcut. Stem and classifier have none.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from experiments.models import resnet
from scl_jax import gates


class Gate(nn.Module):
  """The gate of `scl_jax.gates` for a whole block.

  Attributes:
    hidden: Units of its hidden layer.
  """

  hidden: int = 16

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps a block's input [batch, height, width, channels] to [batch, 1]."""
    params = self.param(
      'mlp',
      lambda key: gates.init_gate(key, x.shape[-1], hidden=self.hidden),
    )
    return gates.apply_gate(params, x)


class GatedResNet(resnet.ResNet):
  """A residual network of depth 6 n + 2 whose blocks open for each example.

  Decisions are put into the collection `'decisions'` if it is mutable, as
  `{'block_1': [batch, 1], ...}`:

      logits, out = model.apply(variables, images, mutable=['decisions'])
      means = gates.gate_means(out['decisions'])

  Attributes:
    hidden: Units of the hidden layer of each gate.
    every_block: Whether first blocks of stages have a gate, too.
  """

  hidden: int = 16
  every_block: bool = False

  def gated_blocks(self) -> list[int]:
    """The blocks that have a gate, from 0."""
    blocks = self.blocks()
    per_stage = len(blocks) // 3
    gated = [
      index
      for index in range(len(blocks))
      if index not in self.closed and (self.every_block or index % per_stage)
    ]
    if not gated:
      raise ValueError(
        f'No block is left to gate at depth {self.depth} with closed='
        f'{self.closed}: first blocks of stages have a gate only with '
        'every_block=True.'
      )
    return gated

  def gate(self, index: int, x: jax.Array, branch: jax.Array) -> jax.Array:
    """See the base class."""
    if index not in self.gated_blocks():
      return branch
    decisions = Gate(self.hidden, name=f'Gate_{index}')(x)
    # Not in init, where all is mutable: decisions are no state of the network.
    if self.is_mutable_collection('decisions') and not self.is_initializing():
      self.put_variable('decisions', f'block_{index}', decisions)
    return branch * decisions[:, None, None].astype(branch.dtype)


def extract(
  model: GatedResNet, variables: Mapping[str, Any], is_open: Mapping[str, Any]
) -> tuple[resnet.ResNet, dict[str, Any]]:
  """The static network: no gates, and no blocks but the open ones.

  Args:
    model: The network with gates.
    variables: Its `'params'` and `'batch_stats'`.
    is_open: `gates.consensus` of the decisions on the training set.

  Returns:
    The network and its variables, which are those of the network with gates
    less the ones of gates and closed branches.

  Raises:
    ValueError: If `is_open` does not hold one value for each gate.
  """
  names = {f'block_{index}': index for index in model.gated_blocks()}
  if set(is_open) != set(names):
    raise ValueError(
      f'is_open must hold {", ".join(names)}; got {", ".join(is_open)}.'
    )
  for name, value in is_open.items():
    if np.size(value) != 1:
      raise ValueError(
        'is_open must hold one bool for each block, as gates.consensus makes '
        f'them; got shape {np.shape(value)} for {name!r}.'
      )
  closed = [i for name, i in names.items() if not np.all(is_open[name])]
  gone = {f'Gate_{index}' for index in names.values()}
  for index in closed:
    for number in model.blocks()[index].branch:
      gone |= {f'Conv_{number}', f'BatchNorm_{number}'}
  static = resnet.ResNet(
    depth=model.depth,
    num_classes=model.num_classes,
    block=model.block,
    projection=model.projection,
    dtype=model.dtype,
    closed=tuple(sorted([*model.closed, *closed])),
  )
  return static, {
    collection: {
      k: v for k, v in variables[collection].items() if k not in gone
    }
    for collection in ('params', 'batch_stats')
  }
