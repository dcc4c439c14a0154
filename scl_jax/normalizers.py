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
"""The normalisers of mask gradients that a rule can be asked for by name."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import optax

from scl_jax import checks
from scl_jax import features
from scl_jax import transforms
from scl_jax import tree as tree_lib

Normalizer = optax.GradientTransformation | Literal['feature_norm'] | None


def get_normalizer(
  normalizer: Normalizer, feature_axes: features.FeatureAxes
) -> optax.GradientTransformation:
  """A normaliser by its name, or as it is given.

  Args:
    normalizer: `'feature_norm'` for `normalize_by_feature_norm` with the decay
      and the interval that `scl` was tuned with, `None` for none, or any
      transformation.
    feature_axes: Which axes are features, see `scl_jax.features`.

  Returns:
    An optax transformation.

  Raises:
    ValueError: If it is something else.
  """
  if normalizer is None:
    return optax.identity()
  if isinstance(normalizer, str) and normalizer == 'feature_norm':
    return _feature_norm(features.resolve_feature_axes(feature_axes))
  if checks.is_transformation(normalizer):
    return normalizer
  raise ValueError(
    "normalizer must be 'feature_norm', None or an optax transformation, got "
    f'{normalizer!r}.'
  )


def _feature_norm(
  resolve: Callable[[str, Any], features.Axes],
) -> optax.GradientTransformationExtraArgs:
  """The norm of the features that paths tell, which only a tree knows."""

  def of(tree):
    key_paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    path_of = dict(
      zip((key for key, _ in key_paths), tree_lib.paths(tree), strict=True)
    )
    return transforms.normalize_by_feature_norm(
      decay=0.92,
      update_every=8,
      feature_axes=lambda key_path, leaf: resolve(path_of[key_path], leaf),
    )

  return optax.GradientTransformationExtraArgs(
    lambda params: of(params).init(params),
    lambda updates, state, params=None, **extra_args: of(updates).update(
      updates, state, params, **extra_args
    ),
  )
