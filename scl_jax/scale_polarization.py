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
r"""Polarization of BatchNorm scales, which removes channels.

Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer"
(NeurIPS 2020), by its published equations. It polarises parameters across
channels; `scl_jax.gates`, which came later, each gate's decision across
examples.

The scales γ start at 0.5 (`scale_init` of `flax.linen.BatchNorm`) and are kept
in [0, 1] (`optax.projections.projection_box` after each step). The objective is
`task + penalty * polarization(scales, t)`. Then `threshold` separates the
channels that are removed from those that are kept, and the network is
fine-tuned.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import checks
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree

_BINS = 100  # of [0, 1], as in the paper


def polarization(scales: PyTree, t: ArrayLike) -> jax.Array:
  r"""Low where some scales are 0 and the others 1.

  .. math::
    R(\gamma) = t \|\gamma\|_1 - \|\gamma - \bar\gamma \mathbf 1\|_1

  with the mean :math:`\bar\gamma` over all layers (equation 2 there). On its
  own, with scales in [0, 1], it is least where a share 1/2 - t/4 of them is 1
  and the others are 0.

  Args:
    scales: γ of all BatchNorm layers that may lose channels, any shapes;
      `None` elsewhere.
    t: In [-2, 2], what decides how many stay.

  Returns:
    A float32 scalar.

  Raises:
    ValueError: If there is no scale, or t is out of range.

  Example:
    >>> polarization({'norm': jnp.array([0.0, 1.0])}, t=1.0)
    Array(0., dtype=float32)
  """
  checks.check_scalar('t', t, lambda x: -2 <= x <= 2, 'in [-2, 2]')
  leaves = [jnp.asarray(s).astype(jnp.float32) for s in jax.tree.leaves(scales)]
  count = sum(leaf.size for leaf in leaves)
  if not count:
    raise ValueError('scales holds no scale.')
  mean = sum(jnp.sum(leaf) for leaf in leaves) / count
  size = sum(jnp.sum(jnp.abs(leaf)) for leaf in leaves)
  spread = sum(jnp.sum(jnp.abs(leaf - mean)) for leaf in leaves)
  return jnp.asarray(t, jnp.float32) * size - spread


def threshold(scales: PyTree) -> float:
  """What separates small scales from large ones: keep those above it.

  The lower edge of the first bin, of width 0.01, that holds no more scales than
  either of its neighbours: the first local minimum of the histogram, as the
  authors' code has it. Runs on the host.

  Args:
    scales: As for `polarization`, in [0, 1].

  Returns:
    A number in [0.01, 0.98].

  Raises:
    ValueError: If there is no scale, one is outside of [0, 1], or there is no
      local minimum.

  Example:
    >>> threshold({'norm': jnp.array([0.001, 0.002, 0.013, 0.8, 0.9])})
    0.02
  """
  leaves = [np.asarray(s, np.float64).ravel() for s in jax.tree.leaves(scales)]
  values = np.concatenate([np.zeros(0), *leaves])
  if not values.size:
    raise ValueError('scales holds no scale.')
  if not (values.min() >= 0 and values.max() <= 1):
    raise ValueError(
      'scales must be in [0, 1], where projection keeps them; got values from '
      f'{values.min():.4g} to {values.max():.4g}.'
    )
  counts, _ = np.histogram(values, bins=_BINS, range=(0, 1))
  inner = counts[1:-1]
  is_low = (inner <= counts[:-2]) & (inner <= counts[2:])
  if not is_low.any():
    raise ValueError(
      'The histogram of scales has no local minimum, so nothing separates '
      'small ones from large ones: train for longer, or with a higher penalty.'
    )
  return (1 + int(np.argmax(is_low))) / _BINS
