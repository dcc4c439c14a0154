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

from collections.abc import Callable, Mapping
import functools
import types

from flax import linen as nn
import jax.numpy as jnp

from experiments.models import gated_resnet
from experiments.models import gated_vgg
from experiments.models import lenet
from experiments.models import mobilenet
from experiments.models import resnet
from experiments.models import resnet50
from experiments.models import vgg
from experiments.models import vit
from experiments.models import wide_resnet

MODELS: Mapping[str, Callable[..., nn.Module]] = types.MappingProxyType(
  {
    # One block a stage, each with a gate: a stage may be left its shortcut.
    'gated_resnet8': functools.partial(
      gated_resnet.GatedResNet,
      depth=8,
      block=2,
      projection=True,
      every_block=True,
    ),
    'gated_resnet20': functools.partial(gated_resnet.GatedResNet, depth=20),
    'gated_resnet20_2x2': functools.partial(
      gated_resnet.GatedResNet, depth=20, block=2
    ),
    'gated_resnet32': functools.partial(gated_resnet.GatedResNet, depth=32),
    'gated_resnet56': functools.partial(gated_resnet.GatedResNet, depth=56),
    'gated_vgg16': functools.partial(gated_vgg.GatedVGG, depth=16),
    'gated_vgg16_narrow': functools.partial(
      gated_vgg.GatedVGG, depth=16, features=vgg.NARROW
    ),
    'lenet300': lenet.LeNet300,
    'lenet5': lenet.LeNet5,
    'mobilenet': mobilenet.MobileNet,
    'mobilenet_32x32': functools.partial(mobilenet.MobileNet, stem_stride=1),
    'resnet8': functools.partial(
      resnet.ResNet, depth=8, block=2, projection=True
    ),
    'resnet20': functools.partial(resnet.ResNet, depth=20),
    'resnet32': functools.partial(resnet.ResNet, depth=32),
    'resnet56': functools.partial(resnet.ResNet, depth=56),
    'resnet50': resnet50.ResNet50,
    'vgg16': functools.partial(vgg.VGG, depth=16),
    'vgg16_narrow': functools.partial(vgg.VGG, depth=16, features=vgg.NARROW),
    'vgg19': functools.partial(vgg.VGG, depth=19),
    'vit': vit.ViT,
    'wide_resnet_22_2': functools.partial(
      wide_resnet.WideResNet, depth=22, width=2
    ),
  }
)

# Where names do not settle which axes of a kernel are its features.
_FEATURE_AXES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
  'mobilenet': mobilenet.FEATURE_AXES,
  'mobilenet_32x32': mobilenet.FEATURE_AXES,
  'vit': vit.FEATURE_AXES,
}


def create_model(
  name: str, num_classes: int, dtype: str | None = None
) -> nn.Module:
  """The model of that name.

  Args:
    name: A key of `MODELS`.
    num_classes: The number of logits.
    dtype: The dtype of the computation, such as `'bfloat16'`; `None` for that
      of the weights, which are float32 always.

  Returns:
    A Linen module that maps images [batch, height, width, channels] to logits
    [batch, num_classes], with an argument `train`.

  Raises:
    ValueError: If the name or dtype is unknown.
  """
  if name not in MODELS:
    raise ValueError(
      f'config.model must be one of {", ".join(MODELS)}; got {name!r}.'
    )
  if dtype not in (None, 'float32', 'bfloat16'):
    raise ValueError(
      f"config.dtype must be None, 'float32' or 'bfloat16'; got {dtype!r}."
    )
  return MODELS[name](
    num_classes=num_classes, dtype=None if dtype is None else jnp.dtype(dtype)
  )


def feature_axes(name: str) -> Mapping[str, tuple[int, ...]] | None:
  """The feature axes of a model's kernels, for `scl_jax.scl`.

  Args:
    name: A key of `MODELS`.

  Returns:
    A mapping from patterns of paths to axes; `None` where the default rule of
    `scl_jax.features` is right for all of them.
  """
  return _FEATURE_AXES.get(name)
