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
"""Checks of arguments that several rules share."""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
from jax import core
import numpy as np


def check_scalar(
  name: str,
  value: Any,
  is_good: Callable[[Any], bool],
  expected: str,
  *,
  or_schedule: bool = False,
  or_none: bool = False,
) -> None:
  """Raises unless an argument is one finite number that is in its range.

  What is traced or a schedule cannot be checked.

  Args:
    name: The argument, for the message.
    value: What was given for it.
    is_good: Whether a finite number is in the range.
    expected: The range in words, for the message.
    or_schedule: Whether it may be a function of the step instead.
    or_none: Whether it may be left out.

  Raises:
    ValueError: If it is something else.
  """
  if isinstance(value, core.Tracer) or (or_none and value is None):
    return
  if or_schedule and callable(value):
    return
  if np.ndim(value):
    raise ValueError(
      f'{name} must be one number, got shape {np.shape(value)}; train '
      'several networks at once with jax.vmap.'
    )
  # Within `jax.jit` even a known array compares to a traced bool.
  number = value.item() if isinstance(value, jax.Array) else value
  try:
    is_fine = math.isfinite(number) and bool(is_good(number))
  except TypeError:
    is_fine = False
  if not is_fine:
    raise ValueError(f'{name} must be {expected}, got {value!r}.')


def check_density(name: str, value: Any, *, or_none: bool = False) -> None:
  """Raises unless an argument is a density in (0, 1]; traced is allowed.

  Args:
    name: The argument, for the message.
    value: What was given for it.
    or_none: Whether it may be left out.

  Raises:
    ValueError: If it is something else.
  """
  check_scalar(name, value, lambda x: 0 < x <= 1, 'in (0, 1]', or_none=or_none)


def check_whole(
  name: str, value: Any, least: Any, *, or_none: bool = False
) -> None:
  """Raises unless an argument is a whole number that is high enough.

  Args:
    name: The argument, for the message.
    value: What was given for it.
    least: The least that it may be, which may be traced.
    or_none: Whether it may be left out.

  Raises:
    ValueError: If it is something else.
  """
  if isinstance(least, jax.Array):
    least = 0 if isinstance(least, core.Tracer) else least.item()
  check_scalar(
    name,
    value,
    lambda x: x >= least and x == int(x),
    f'a whole number >= {least}',
    or_none=or_none,
  )
  if isinstance(value, int | np.integer) and value >= 2**31:
    raise ValueError(f'{name} must be below 2^31, as steps are; got {value!r}.')


def is_transformation(value: Any) -> bool:
  """Whether it is an optax transformation, or looks like one."""
  return hasattr(value, 'init') and hasattr(value, 'update')


def check_transformation(name: str, value: Any) -> None:
  """Raises unless an argument is an optax transformation, or `None`.

  Args:
    name: The argument, for the message.
    value: What was given for it.

  Raises:
    ValueError: If it is something else.
  """
  if value is not None and not is_transformation(value):
    raise ValueError(
      f'{name} must be an optax.GradientTransformation, such as '
      f'optax.sgd(0.01); got {value!r}.'
    )


def check_optimizer(value: Any) -> None:
  """Raises unless `optimizer` is an optax transformation.

  Args:
    value: What was given for it.

  Raises:
    TypeError: If it is something else.
  """
  if not is_transformation(value):
    raise TypeError(
      'optimizer must be an optax.GradientTransformation, such as '
      f'optax.adam(1e-3); got {value!r}.'
    )


def check_fn(value: Any) -> None:
  """Raises unless `fn` is a function.

  Args:
    value: What was given for it.

  Raises:
    TypeError: If it is something else.
  """
  if not callable(value):
    raise TypeError(
      f'fn must be a function fn(params, *inputs); got {value!r}.'
    )


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
  """Raises unless an argument is one of a few names.

  Args:
    name: The argument, for the message.
    value: What was given for it.
    choices: The names there are.

  Raises:
    ValueError: If it is something else.
  """
  if not isinstance(value, str) or value not in choices:
    listed = ', '.join(repr(choice) for choice in choices)
    raise ValueError(f'{name} must be one of {listed}; got {value!r}.')


def check_key(name: str, value: Any) -> None:
  """Raises unless an argument is one key of `jax.random`.

  Args:
    name: The argument, for the message.
    value: What was given for it.

  Raises:
    ValueError: If it is something else.
  """
  try:
    jax.eval_shape(jax.random.bits, value)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{name} must be one key, such as jax.random.key(0); got {value!r}.'
    ) from error


def check_finite(name: str, value: Any) -> None:
  """Raises if an array holds a NaN or an infinity; what is traced may.

  Args:
    name: The argument, for the message.
    value: The array.

  Raises:
    ValueError: If it holds one.
  """
  if isinstance(value, core.Tracer):
    return
  bad = np.size(value) - int(np.isfinite(np.asarray(value, float)).sum())
  if bad:
    raise ValueError(
      f'{name} must be finite, but {bad} of its {np.size(value)} entries are '
      'NaN or infinite.'
    )
