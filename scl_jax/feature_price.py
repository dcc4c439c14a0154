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
"""A price on live features beside that on connections.

A feature costs memory and time as long as one connection of it is live, so it
pays to have few full ones instead of many nearly empty ones. With n_f the live
connections of feature f, the price is λ on

    Σ_f n_f^(1 - γ)

over the outputs and the inputs of each leaf: γ = 0 counts connections, γ = 1
live features. Its slope n_f^-γ is what one connection costs: much in a feature
that is nearly empty, little in a full one. λ stays the mean price of the live
connections of a leaf, so that whatever sets λ need not know.
"""

import jax.numpy as jnp

from scl_jax import features
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def relative_prices(
  mask_params: PyTree,
  power: float,
  feature_axes: features.FeatureAxes = None,
) -> PyTree:
  """The price of each connection, in units of λ.

  Args:
    mask_params: One mask variable a connection, live if positive; `None` at
      other leaves.
    power: γ, in [0, 1].
    feature_axes: Which axes are outputs, see `scl_jax.features`. Inputs are
      taken to be the axis before them, or the one behind if they come first;
      of a stack, as with (0, -1), those of each of its layers.

  Returns:
    A tree of float32 arrays that broadcast to the mask variables, whose mean
    over the live connections of a leaf is 1.

  Example:
    >>> relative_prices({'w': jnp.array([[1.0, 1.0], [1.0, -1.0]])}, 1.0)
    {'w': Array([[0.75 , 1.125],
           [1.125, 1.5  ]], dtype=float32)}
  """
  resolve = features.resolve_feature_axes(feature_axes)

  def price(path, m):
    live = (m > 0).astype(jnp.float32)
    outputs = resolve(path, m)
    slopes, total = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)
    for axes in (outputs, _input_axes(outputs, m.ndim)):
      others = tuple(axis for axis in range(m.ndim) if axis not in axes)
      count = live.sum(others, keepdims=True)
      slope = jnp.maximum(count, 1.0) ** -power
      slopes, total = slopes + slope, total + jnp.sum(count * slope)
    # Where nothing is live there is no mean, and any price will do.
    mean = jnp.where(total > 0, total / jnp.maximum(live.sum(), 1.0), 2.0)
    return slopes / mean

  return tree_lib.map_with_path(price, mask_params)


def _input_axes(outputs: features.Axes, rank: int) -> features.Axes:
  """The axis before the last run of outputs; outputs before it are a stack."""
  if not outputs:
    return ()
  first = outputs[-1]
  while first - 1 in outputs:
    first -= 1
  if first == 0:
    return (outputs[-1] + 1,) if outputs[-1] + 1 < rank else ()
  return (*(axis for axis in outputs if axis < first), first - 1)
