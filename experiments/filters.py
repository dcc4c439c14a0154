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
"""Rules that decide for whole filters, with the BatchNorm behind them.

To the rule a filter θ, its kernel and the scale and shift of its channel, is
one connection: of the weight ‖kernel‖, and of the gradient that makes weight
times gradient ⟨∂L/∂θ, θ⟩, what the loss changes by per share of θ. So SCL has
one mask variable a filter, which multiplies all of θ, and magnitudes are norms.
The kernel alone would not do: behind BatchNorm the loss does not depend on its
length, and a kernel of 0 leaves its shift.

The filters of a layer are the connections of one feature to the rule, which
normalises over the layer. A filter that is closed has no gradient, as ReLU has
none at 0: it stays closed unless the rule opens it for another reason.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import scl_jax


class FilterState(NamedTuple):
  """State of a rule over filters.

  Attributes:
    masks: Of kernels, scales and shifts; `None` at other leaves.
    filters: The state of the rule, to which filters are connections.
  """

  masks: Any
  filters: Any


def over_filters(
  rule: scl_jax.MaskRule, layers: Mapping[str, str]
) -> scl_jax.MaskRule:
  """A rule that removes whole filters.

  Args:
    rule: A rule for connections, without `effective`; its density is a share
      of the filters.
    layers: From the name of a convolution to that of the BatchNorm behind it.

  Returns:
    A rule for params whose first level are layers.

  Raises:
    ValueError: If the rule has `effective`; in its `init`, if a layer is not
      there.
  """
  if rule.effective is not None:
    raise ValueError(
      'rule must multiply weights by masks, as a closed filter is 0; got one '
      'with `effective`, such as soft_threshold: give another.'
    )

  def init_fn(weights):
    missing = {*layers, *layers.values()} - {*weights}
    if missing:
      raise ValueError(
        f'layers must name layers of the params, {", ".join(weights)}; got '
        f'{", ".join(sorted(missing))}.'
      )
    state = rule.init(_norms(weights, layers))
    return FilterState(_spread(weights, state.masks, layers), state)

  def update_fn(grads, state, weights):
    norms = _norms(weights, layers)
    inner = rule.update(
      _slopes(grads, weights, norms, layers), state.filters, norms
    )
    return FilterState(_spread(weights, inner.masks, layers), inner)

  return scl_jax.MaskRule(init_fn, update_fn, rule.resumes_weights)


def _norms(weights: Any, layers: Mapping[str, str]) -> dict[str, Any]:
  """The norm of each kernel, [filters, 1] for a layer."""
  return {
    conv: {'kernel': jnp.sqrt(_per_filter(weights[conv]['kernel'] ** 2))}
    for conv in layers
  }


def _slopes(
  grads: Any, weights: Any, norms: Any, layers: Mapping[str, str]
) -> dict[str, Any]:
  """The gradients that go with `_norms`."""
  slopes = {}
  for conv, norm in layers.items():
    parts = [(conv, 'kernel'), (norm, 'scale'), (norm, 'bias')]
    change = sum(
      _per_filter(grads[name][leaf] * weights[name][leaf])
      for name, leaf in parts
    )
    size = norms[conv]['kernel']
    slopes[conv] = {'kernel': change / jnp.where(size > 0, size, 1.0)}
  return slopes


def _spread(weights: Any, chosen: Any, layers: Mapping[str, str]) -> Any:
  """Masks of filters as masks of all leaves."""
  masks = {name: dict.fromkeys(leaves) for name, leaves in weights.items()}
  for conv, norm in layers.items():
    kept = chosen[conv]['kernel'][:, 0]
    kernel = weights[conv]['kernel']
    masks[conv]['kernel'] = kept.reshape((1,) * (kernel.ndim - 1) + (-1,))
    # Arrays of their own, as a training step donates its state.
    masks[norm] |= {leaf: jnp.copy(kept) for leaf in ('scale', 'bias')}
  return masks


def _per_filter(values: jax.Array) -> jax.Array:
  """Sums over all axes but the last: [filters, 1]."""
  return jnp.sum(values, axis=tuple(range(values.ndim - 1)))[:, None]
