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
"""VGG with a gate on each channel, and the network that is left.

A reconstruction of the consensus sub-network (arXiv 2302.10798), whose code and
equations were not published: see `scl_jax.gates`. Without gates these are the
networks of `vgg`, whose params have the same names here.

The gates of a layer see its input, and multiply what it gives behind BatchNorm
and ReLU, so that a closed channel is 0. All examples enter BatchNorm's
statistics.

The first channel of each layer has no gate, so that no layer loses all of its
channels, in training or afterwards; `every_channel` gives it one.

In the static network a closed channel is 0 as well, since its filter and its
BatchNorm are, and no weights read it: `scl_jax.compact` removes it.
"""

from collections.abc import Mapping, Sequence
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.models import gate
from experiments.models import vgg


class GatedVGG(vgg.VGG):
  """VGG whose channels open for each example.

  Decisions are put into the collection `'decisions'` if it is mutable, as
  `{'layer_0': [batch, gates], ...}`.

  Attributes:
    hidden: Units of the hidden layer of the gates of each layer.
    every_channel: Whether the first channel of each layer has a gate, too.
  """

  hidden: int = 16
  every_channel: bool = False

  def gate(self, layer: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """See the base class."""
    count = self._counts()[f'layer_{layer}']
    decisions = gate.Gate(count, self.hidden, name=f'Gate_{layer}')(x)
    gate.record(self, f'layer_{layer}', decisions)
    ungated = jnp.ones((len(y), y.shape[-1] - count), decisions.dtype)
    decisions = jnp.concatenate([ungated, decisions], axis=1)
    return y * decisions[:, None, None].astype(y.dtype)

  def gate_costs(self, layers: Mapping[str, float]) -> dict[str, float]:
    """See `gate.GatedModel`; a gate closes one filter.

    What the next layer saves, as nothing is left to read, is not counted.
    """
    return {
      f'layer_{i}': layers[f'Conv3x3_{i}'] / features
      for i, features in enumerate(itertools.chain(*self.stages()))
    }

  def without_gates(
    self, closed: Mapping[str, Sequence[int]] | None = None
  ) -> nn.Module:
    """See `gate.GatedModel`; it is the same whatever is closed."""
    del closed  # weights of 0
    return vgg.VGG(
      depth=self.depth,
      num_classes=self.num_classes,
      features=self.features,
      dtype=self.dtype,
      parent=None,  # no part of this module
    )

  def extract(
    self, variables: Mapping[str, Any], is_open: Mapping[str, Any]
  ) -> tuple[nn.Module, dict[str, Any]]:
    """See `gate.GatedModel`; what belongs to a closed channel is 0."""
    counts = self._counts()
    gate.check_open(is_open, counts)
    params = {
      name: dict(leaves)
      for name, leaves in variables['params'].items()
      if not name.startswith('Gate_')
    }
    readers = [f'Conv3x3_{i}' for i in range(1, len(counts))] + ['Dense_0']
    for i, (name, reader) in enumerate(zip(counts, readers, strict=True)):
      filters = params[f'Conv3x3_{i}']
      ungated = filters['kernel'].shape[-1] - counts[name]
      kept = np.concatenate([np.ones(ungated), np.asarray(is_open[name])])
      kept = kept.astype(np.float32)
      filters['kernel'] = filters['kernel'] * kept
      norm = params[f'BatchNorm_{i}']
      norm.update({k: leaf * kept for k, leaf in norm.items()})
      params[reader]['kernel'] = params[reader]['kernel'] * kept[:, None]
    return self.without_gates(), {
      'params': params,
      'batch_stats': variables['batch_stats'],
    }

  def _counts(self) -> dict[str, int]:
    """The number of gates of each layer, by the name of their decisions."""
    ungated = 0 if self.every_channel else 1
    return {
      f'layer_{i}': features - ungated
      for i, features in enumerate(itertools.chain(*self.stages()))
    }
