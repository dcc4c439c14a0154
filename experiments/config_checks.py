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
"""What can be checked in a config before anything is read or written.

What depends on the data, the model or the method is checked where it is used.
"""

from collections.abc import Container, Iterable, Sequence
import math
import numbers
from typing import Any

import ml_collections

from scl_jax import checks

# Each decides what a connection costs, in place of `config.penalty`.
TARGETS = ('target_density', 'layer_densities', 'target_macs')


def check_numbers(config: ml_collections.ConfigDict) -> None:
  """Raises unless each number is in its range.

  Args:
    config: See `experiments/configs/`; a field that it lacks is not checked.

  Raises:
    ValueError: If a number is out of range, with the name of its field.
  """
  for name, is_good, range_ in (
    ('seed', lambda n: 0 <= n < 2**32, 'in [0, 2**32)'),
    *(
      (name, lambda n: n >= 1, '>= 1')
      for name in (
        'epochs',
        'batch_size',
        'points_per_epoch',
        'points_per_checkpoint',
        'keep_checkpoints',
      )
    ),
    *(
      (name, lambda n: n >= 0, '>= 0')
      for name in ('crop_padding', 'recalibration_batches', 'stream_workers')
    ),
    ('image_size', lambda n: n is None or n >= 1, '>= 1, or None'),
    ('label_smoothing', lambda x: 0 <= x < 1, 'in [0, 1)'),
    ('learning_rate', lambda x: 0 < x < math.inf, 'finite and > 0'),
    *(
      (name, lambda x: x >= 0, '>= 0, 0 for none')
      for name in ('weight_decay', 'clip_norm')
    ),
    ('schedule_factor', lambda x: 0 <= x < math.inf, 'finite and >= 0'),
    ('schedule_boundaries', _are_in_run, 'shares of the run, in (0, 1)'),
    ('pixel_mean', _are_finite, 'a finite number for each channel'),
    ('pixel_std', _are_finite, 'a finite number for each channel'),
    (
      'stream_crop_area',
      _are_shares,
      'two shares, 0 < smallest <= largest <= 1',
    ),
  ):
    if name in config and not is_good(config[name]):
      raise ValueError(f'config.{name} must be {range_}, got {config[name]}.')


def prefer_given(
  config: ml_collections.ConfigDict, given: Container[str]
) -> None:
  """A penalty or target of the command line replaces those of the config file.

  Args:
    config: Is changed.
    given: The fields that the command line sets.

  Raises:
    ValueError: If both a penalty and a target are given.
  """
  targets = [name for name in TARGETS if name in given]
  if 'penalty' in given and targets:
    raise ValueError(
      f'Give either config.penalty or config.{targets[0]}, not both: the '
      'penalty that a target needs is found in training.'
    )
  if 'penalty' in given or targets:
    for name in TARGETS:
      if name in config and name not in given:
        config[name] = None


def require_fields(
  config: ml_collections.ConfigDict, names: Sequence[str], example: str
) -> None:
  """Raises unless a config has the fields that only some experiments need.

  Args:
    config: See `experiments/configs/`.
    names: The fields, by dotted name.
    example: A file of `experiments/configs/` that has them.

  Raises:
    ValueError: If one is missing, with its name.
  """
  for name in names:
    node: Any = config
    path = 'config'
    for field in name.split('.'):
      path = f'{path}.{field}'
      if not isinstance(node, ml_collections.ConfigDict) or field not in node:
        raise ValueError(
          f'{path} is missing, which this experiment needs: take a config such '
          f'as experiments/configs/{example}.'
        )
      node = node[field]


def as_numbers(name: str, values: Any) -> tuple[float, ...]:
  """A list of a config as floats.

  Args:
    name: Of the list, such as `'config.penalties'`.
    values: What was given for it.

  Returns:
    As many floats.

  Raises:
    ValueError: If it is no list of finite numbers, with its name.
  """
  is_list = isinstance(values, list | tuple)
  if not is_list or not _are_finite(values):
    raise ValueError(
      f'{name} must hold finite numbers, such as (0.02, 0.01); got {values!r}.'
    )
  return tuple(map(float, values))


def as_shares(name: str, values: Any) -> tuple[float, ...]:
  """A list of a config as floats, each a share to keep.

  Args:
    name: Of the list, such as `'config.densities'`.
    values: What was given for it.

  Returns:
    As many floats.

  Raises:
    ValueError: If it is no list of numbers in (0, 1], with its name.
  """
  shares = as_numbers(name, values)
  for share in shares:
    checks.check_density(name, share)
  return shares


def check_distinct(name: str, values: Iterable[Any]) -> None:
  """Raises if a list names something twice, whose runs would count double.

  Args:
    name: Of the list, such as `'config.densities'`.
    values: What is in it.

  Raises:
    ValueError: If two of them are equal.
  """
  values = list(values)
  twice = [v for i, v in enumerate(values) if v in values[:i]]
  if twice:
    raise ValueError(
      f'{name} must hold everything once, got {twice[0]!r} twice: for more '
      'runs of it give more seeds.'
    )


def _are_finite(values: Any) -> bool:
  return all(isinstance(x, numbers.Real) and math.isfinite(x) for x in values)


def _are_in_run(shares: Any) -> bool:
  return _are_finite(shares) and all(0 < share < 1 for share in shares)


def _are_shares(area: Any) -> bool:
  return len(area) == 2 and 0 < area[0] <= area[1] <= 1
