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
"""Arguments that are regular expressions for whole paths, or keyed by them."""

from collections.abc import Iterable, Mapping, Sequence
import re
from typing import TypeVar

from scl_jax import tree as tree_lib

T = TypeVar('T')


def check_patterns(name: str, patterns: Iterable[str]) -> None:
  """Raises unless all patterns are regular expressions.

  Args:
    name: The argument, for the message.
    patterns: What was given for it.

  Raises:
    ValueError: Naming the first that is none.
  """
  for pattern in patterns:
    try:
      re.compile(pattern)
    except (re.error, TypeError) as error:
      raise ValueError(
        f'{name} pattern {pattern!r} is no regular expression ({error}); for '
        "every kernel write '.*/kernel'."
      ) from error


def check_matches(
  name: str,
  patterns: Iterable[str],
  paths: Sequence[str],
  *,
  others: Sequence[str] = (),
) -> None:
  """Raises unless each pattern matches a prunable leaf.

  Args:
    name: The argument, for the message.
    patterns: What was given for it, regular expressions.
    paths: The paths of the prunable leaves.
    others: Those of other leaves, for the message.

  Raises:
    ValueError: Naming the first that matches none, and the paths there are.
  """
  for pattern in patterns:
    if not any(re.fullmatch(pattern, path) for path in paths):
      dense = [path for path in others if re.fullmatch(pattern, path)]
      hint = f' ({dense[0]!r} is not prunable)' if dense else ''
      raise ValueError(
        f'{name} pattern {pattern!r} matches no prunable leaf{hint}; it is a '
        'regular expression for the whole path. The paths are:\n'
        f'{tree_lib.listing(paths)}'
      )


def look_up(table: Mapping[str, T], path: str) -> T | None:
  """What the first pattern that matches a path stands for.

  Args:
    table: From patterns to what they stand for.
    path: A whole path.

  Returns:
    A value of the table, or `None` if no pattern matches.

  Example:
    >>> look_up({'out/.*': 1, '.*': 2}, 'out/kernel')
    1
  """
  return next(
    (value for key, value in table.items() if re.fullmatch(key, path)), None
  )
