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
"""Models, in Flax Linen."""

from collections.abc import Mapping
import types

from flax import linen as nn

from experiments.models import lenet

MODELS: Mapping[str, type[nn.Module]] = types.MappingProxyType(
  {
    'lenet300': lenet.LeNet300,
    'lenet5': lenet.LeNet5,
  }
)


def create_model(name: str, num_classes: int) -> nn.Module:
  """The model of that name.

  Args:
    name: A key of `MODELS`.
    num_classes: The number of logits.

  Returns:
    A Linen module that maps images [batch, height, width, channels] in [0, 1]
    to logits [batch, num_classes].

  Raises:
    ValueError: If the name is unknown.
  """
  if name not in MODELS:
    raise ValueError(
      f'config.model must be one of {", ".join(MODELS)}; got {name!r}.'
    )
  return MODELS[name](num_classes=num_classes)
