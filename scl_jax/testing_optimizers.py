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
"""The optimizers under which `scl_jax.testing` puts every rule."""

from collections.abc import Callable, Mapping
import types

import jax
import optax


def _partition() -> optax.GradientTransformation:
  return optax.partition(
    {'matrix': optax.adam(1e-2), 'vector': optax.sgd(0.1)},
    lambda params: jax.tree.map(
      lambda p: 'matrix' if p.ndim > 1 else 'vector', params
    ),
  )


def _masked() -> optax.GradientTransformation:
  return optax.masked(
    optax.adam(1e-2),
    lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
  )


def _clipped() -> optax.GradientTransformation:
  return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2))


def _accumulated() -> optax.GradientTransformation:
  steps = optax.MultiSteps(optax.adam(1e-2), 2)
  return steps.gradient_transformation()


OPTIMIZERS: Mapping[str, Callable[[], optax.GradientTransformation]] = (
  types.MappingProxyType(
    {
      'momentum': lambda: optax.sgd(0.05, momentum=0.9),
      'adam': lambda: optax.adam(1e-2),
      'adamw': lambda: optax.adamw(1e-2, weight_decay=0.1),
      'lion': lambda: optax.lion(1e-3),
      'muon': lambda: optax.contrib.muon(1e-2, ns_steps=2),
      'partition': _partition,
      'masked': _masked,
      'clipped': _clipped,
      'accumulated': _accumulated,
    }
  )
)
