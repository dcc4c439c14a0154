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

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from experiments.models import gate
from experiments.models import resnet


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
    decisions = gate.Gate(hidden=self.hidden, name=f'Gate_{index}')(x)
    gate.record(self, f'block_{index}', decisions)
    return branch * decisions[:, None, None].astype(branch.dtype)

  def gate_costs(self, layers: Mapping[str, float]) -> dict[str, float]:
    """See `gate.GatedModel`; a gate closes both convolutions of its branch."""
    blocks = self.blocks()
    return {
      f'block_{index}': sum(layers[f'Conv_{n}'] for n in blocks[index].branch)
      for index in self.gated_blocks()
    }

  def without_gates(
    self, closed: Mapping[str, Sequence[int]] | None = None
  ) -> nn.Module:
    """See `gate.GatedModel`; of closed blocks the shortcut alone is left."""
    names = {f'block_{index}': index for index in self.gated_blocks()}
    gone = [names[name] for name, gates in (closed or {}).items() if gates]
    return resnet.ResNet(
      depth=self.depth,
      num_classes=self.num_classes,
      block=self.block,
      projection=self.projection,
      dtype=self.dtype,
      parent=None,  # no part of this module
      closed=tuple(sorted([*self.closed, *gone])),
    )

  def extract(
    self, variables: Mapping[str, Any], is_open: Mapping[str, Any]
  ) -> tuple[nn.Module, dict[str, Any]]:
    """See `gate.GatedModel`; no gates, and no blocks but the open ones."""
    names = {f'block_{index}': index for index in self.gated_blocks()}
    gate.check_open(is_open, dict.fromkeys(names, 1))
    closed = {name: [0] for name in names if not np.all(is_open[name])}
    gone = {f'Gate_{index}' for index in names.values()}
    for name in closed:
      for number in self.blocks()[names[name]].branch:
        gone |= {f'Conv_{number}', f'BatchNorm_{number}'}
    return self.without_gates(closed), {
      collection: {
        k: v for k, v in variables[collection].items() if k not in gone
      }
      for collection in ('params', 'batch_stats')
    }
