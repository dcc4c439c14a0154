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
"""The rules that a config can name."""

import ast
from collections.abc import Callable, Mapping
import contextlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from experiments import config_checks
from experiments import models
import scl_jax

WITHOUT_MASKS = ('dense', 'consensus')

# Methods whose masks change until `freeze_step`.
FREEZING = (
  'scl', 'gradual_magnitude', 'rigl', 'sparse_evolutionary_training',
)  # fmt: skip
_BY_PENALTY = 'whose density follows from config.penalty: leave it None'
# Methods that cannot be asked for a density, and what they have instead.
_WITHOUT_TARGET: Mapping[str, str] = types.MappingProxyType(
  {
    'dense': 'which keeps all connections: leave it None, or take 1.0',
    'consensus': 'whose share is config.consensus.target: leave it None',
    'dynamic_sparse_training': _BY_PENALTY,
    'soft_threshold': _BY_PENALTY,
  }
)


def rule_of(
  config: ml_collections.ConfigDict, num_steps: int, **arguments: Any
) -> scl_jax.MaskRule | None:
  """The rule that a config describes; `None` where connections have no masks.

  Args:
    config: `method` is `'dense'`, `'consensus'` (see `experiments.gating`) or a
      key of `RULES`; the field of that name, if there is one, holds further
      arguments of the rule.
    num_steps: The length of the run, in steps.
    **arguments: Of the rule, instead of the config's.

  Returns:
    A `MaskRule`, or `None`.

  Raises:
    ValueError: If the method is unknown, its arguments are bad, or it would
      ignore a target.
  """
  if config.method == 'nnrelief':
    raise ValueError(
      "config.method='nnrelief' is no rule of one training: run "
      'python -m experiments.nnrelief with this config.'
    )
  if config.method not in (*RULES, *WITHOUT_MASKS):
    known = ', '.join(repr(name) for name in ('dense', *RULES, 'consensus'))
    raise ValueError(
      f'config.method must be one of {known}; got {config.method!r}.'
    )
  _check_targets(config)
  if config.method in WITHOUT_MASKS:
    return None
  arguments = {**config.get(config.method, {}), **arguments}
  try:
    return RULES[config.method](config, num_steps, arguments)
  except TypeError as error:
    raise ValueError(
      f'config.{config.method} does not fit scl_jax.{config.method}: {error}'
    ) from error


def arguments_of(
  config: ml_collections.ConfigDict, model: Any, image_shape: tuple[int, ...]
) -> dict[str, Any]:
  """What the rule has to know of the network, for `rule_of`.

  Args:
    config: See `experiments/configs/`.
    model: A Linen module.
    image_shape: (height, width, channels).

  Returns:
    With `target_macs` the costs of connections, else nothing.
  """
  if config.get('target_macs') is None:
    return {}
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  model_state = dict(jax.eval_shape(model.init, jax.random.key(0), images))
  params = model_state.pop('params')
  network = lambda params, model_state, images: model.apply(
    {'params': params, **model_state}, images
  )
  return {'costs': scl_jax.costs(network, params, model_state, images)}


def dense_config(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config of the same run without masks, and so without a target."""
  config = config.copy_and_resolve_references()
  config.method = 'dense'
  for name in config_checks.TARGETS:
    if name in config:
      config[name] = None
  return config


def _check_targets(config: ml_collections.ConfigDict) -> None:
  given = [
    f'config.{name}={config[name]}'
    for name in config_checks.TARGETS
    if config.get(name) is not None
  ]
  if len(given) > 1:
    raise ValueError(f'Give one target at most; got {" and ".join(given)}.')
  is_of_dense = config.method == 'dense' and config.target_density == 1
  if given and config.method in _WITHOUT_TARGET and not is_of_dense:
    raise ValueError(
      f'{given[0]} does not go with config.method={config.method!r}, '
      f'{_WITHOUT_TARGET[config.method]}.'
    )
  if given and config.method != 'scl' and config.target_density is None:
    raise ValueError(
      f'{given[0]} is for SCL alone, and config.method={config.method!r} has '
      'config.target_density.'
    )


def _layer_densities(pairs: Any) -> dict[str, float]:
  try:
    return {str(pattern): density for pattern, density in pairs}
  except (TypeError, ValueError) as error:
    raise ValueError(
      'config.layer_densities must hold pairs of a pattern and a density, such '
      f"as (('Conv.*', 0.2), ('.*', 0.02)); got {pairs!r}."
    ) from error


def freeze_step(config: ml_collections.ConfigDict, num_steps: int) -> int:
  """The step from which on masks are fixed."""
  if not 0 < config.freeze_at <= 1:
    raise ValueError(
      'config.freeze_at must be a share of the run, in (0, 1]; got '
      f'{config.freeze_at}.'
    )
  return max(1, round(config.freeze_at * num_steps))


def _scl(
  config: ml_collections.ConfigDict, num_steps: int, arguments: dict[str, Any]
) -> scl_jax.MaskRule:
  target = {'target_density': config.target_density}
  if config.get('layer_densities') is not None:
    target = {'target_density': _layer_densities(config.layer_densities)}
  elif config.get('target_macs') is not None:
    target = {'target_macs': config.target_macs}
  elif config.target_density is None:
    target = {'penalty': config.penalty}
  return scl_jax.scl(
    **{
      **target,
      'freeze_step': freeze_step(config, num_steps),
      'feature_axes': models.feature_axes(config.model),
      **arguments,
      'granularity': _granularity(arguments.get('granularity', 'connection')),
    },
  )


def _granularity(value: Any) -> Any:
  """A block shape is written as text, as names are: `'(4, 4)'`."""
  if isinstance(value, str) and value.startswith('('):
    with contextlib.suppress(SyntaxError, ValueError):
      return ast.literal_eval(value)
  return value


def _gradual_magnitude(
  config: ml_collections.ConfigDict, num_steps: int, arguments: dict[str, Any]
) -> scl_jax.MaskRule:
  return scl_jax.gradual_magnitude(
    _density(config),
    **{'end_step': freeze_step(config, num_steps), **arguments},
  )


def _rewiring(
  rule: Callable[..., scl_jax.MaskRule],
) -> Callable[..., scl_jax.MaskRule]:
  """RigL and SET, which move connections up to the freeze."""

  def make(config, num_steps, arguments):
    return rule(
      _density(config),
      **{
        'key': _key(config),
        'end_step': freeze_step(config, num_steps),
        **arguments,
      },
    )

  return make


def _density(config: ml_collections.ConfigDict) -> float:
  if config.target_density is None:
    raise ValueError(
      f'config.method={config.method!r} needs config.target_density, the share '
      'of connections to keep, such as 0.05.'
    )
  return config.target_density


def _key(config: ml_collections.ConfigDict) -> jax.Array:
  """Randomness of the rule, apart from that of weights and batches."""
  # 1 is the augmentation's, see experiments.training_step.
  return jax.random.fold_in(jax.random.key(config.seed), 2)


# From the config, the number of steps and the rule's further arguments.
RULES: Mapping[
  str,
  Callable[[ml_collections.ConfigDict, int, dict[str, Any]], scl_jax.MaskRule],
] = types.MappingProxyType(
  {
    'scl': _scl,
    'gradual_magnitude': _gradual_magnitude,
    'rigl': _rewiring(scl_jax.rigl),
    'sparse_evolutionary_training': _rewiring(
      scl_jax.sparse_evolutionary_training
    ),
    'snip': lambda config, _, arguments: scl_jax.snip(
      _density(config), **arguments
    ),
    'random_pruning': lambda config, _, arguments: scl_jax.random_pruning(
      _density(config), **{'key': _key(config), **arguments}
    ),
    'dynamic_sparse_training': lambda config, _, arguments: (
      scl_jax.dynamic_sparse_training(
        **{'penalty': config.penalty, **arguments}
      )
    ),
    'soft_threshold': lambda config, _, arguments: scl_jax.soft_threshold(
      **{'decay': config.penalty, **arguments}
    ),
  }
)
