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
"""The weights' optimizer and its learning rate, from optax, by config."""

import collections
from collections.abc import Callable
import inspect
import operator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
import optax.contrib


def make_optimizer(
  config: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
  """The optimizer that a config describes.

  Args:
    config: `optimizer` is the name of a function of optax whose first argument
      is the learning rate, such as `'adam'` or `'contrib.muon'`,
      `optimizer_arguments` are its other arguments.
      `weight_decay` is added to the gradient, times the weight, for leaves of
      rank 2 and more (decay as in `adamw` is an argument of `adamw`);
      `clip_norm` clips the gradient's global norm before that.
    num_steps: The length of the run, in steps.

  Returns:
    An optax transformation.

  Raises:
    ValueError: If the optimizer is unknown, or needs more than gradients.
  """
  make = _find(config.optimizer)
  if 'schedule_free' in config.optimizer:
    raise ValueError(
      f'config.optimizer={config.optimizer!r} is evaluated with other weights '
      'than it is trained with, which is not done here; see '
      'docs/getting_started.md for a loop of your own.'
    )
  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  if config.weight_decay:
    parts.append(
      optax.add_decayed_weights(config.weight_decay, mask=_is_matrix)
    )
  arguments = config.optimizer_arguments.to_dict()
  try:
    optimizer = make(make_schedule(config, num_steps), **arguments)
  except TypeError as error:
    raise ValueError(
      f'config.optimizer_arguments do not fit optax.{config.optimizer}: {error}'
    ) from error
  _check_update(config.optimizer, arguments, optimizer)
  return optax.chain(*parts, optimizer) if parts else optimizer


def _find(name: str) -> Callable[..., optax.GradientTransformation]:
  """The function of optax, or of a module in it, that has this name."""
  try:
    make = operator.attrgetter(name)(optax)
    if 'learning_rate' in inspect.signature(make).parameters:
      return make
  except (AttributeError, TypeError, ValueError):  # there is none; no function
    pass
  raise ValueError(
    "config.optimizer must name an optimizer of optax, such as 'adam', 'sgd' "
    f"or 'contrib.muon'; got {name!r}."
  )


def _check_update(
  name: str, arguments: dict[str, Any], tx: optax.GradientTransformation
) -> None:
  """Raises unless it takes a step, here an abstract one, from gradients."""
  params = {
    'w': jax.ShapeDtypeStruct((2, 2), jnp.float32),
    'b': jax.ShapeDtypeStruct((2,), jnp.float32),
  }
  try:
    jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), params)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'config.optimizer={name!r} takes no step from gradients, a schedule of '
      f'learning rates and config.optimizer_arguments={arguments}: mend these, '
      f"or take another one, such as 'adam'. ({error})"
    ) from error


def make_schedule(
  config: ml_collections.ConfigDict, num_steps: int
) -> optax.Schedule:
  """The learning rate over the steps: a linear warm-up, then what is named.

  Args:
    config: `learning_rate` is the highest; `warmup_epochs` last until it is
      reached; `schedule` is `'cosine'` (to 0), `'constant'` or `'step'`, which
      multiplies by `schedule_factor` at each of `schedule_boundaries`, shares
      of the run.
    num_steps: The length of the run, in steps.

  Returns:
    A schedule.

  Raises:
    ValueError: If the schedule is unknown or does not fit the run.
  """
  peak = config.learning_rate
  if not 0 <= config.warmup_epochs < config.epochs:
    raise ValueError(
      f'config.warmup_epochs must be in [0, {config.epochs}), the epochs; got '
      f'{config.warmup_epochs}.'
    )
  # One step is left for what follows, however it rounds.
  warmup = min(
    round(config.warmup_epochs * num_steps / config.epochs), num_steps - 1
  )
  if config.schedule == 'cosine':
    schedule = optax.cosine_decay_schedule(peak, num_steps - warmup)
  elif config.schedule == 'constant':
    schedule = optax.constant_schedule(peak)
  elif config.schedule == 'step':
    # join_schedules counts from the end of the warm-up. Shares may round to the
    # same step.
    factors = collections.defaultdict(lambda: 1.0)
    for share in config.schedule_boundaries:
      factors[round(share * num_steps) - warmup] *= config.schedule_factor
    schedule = optax.piecewise_constant_schedule(peak, dict(factors))
  else:
    raise ValueError(
      "config.schedule must be 'cosine', 'constant' or 'step'; got "
      f'{config.schedule!r}.'
    )
  if not warmup:
    return schedule
  return optax.join_schedules(
    [optax.linear_schedule(0.0, peak, warmup), schedule], [warmup]
  )


def _is_matrix(params: Any) -> Any:
  return jax.tree.map(lambda p: p.ndim > 1, params)
