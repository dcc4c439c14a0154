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
"""What the devices of a compiled program send one another.

Read from the text of the program that XLA made for one device of many.
"""

import functools
import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$')
_COLLECTIVE = re.compile(
  r' = (.*?) (?:all-gather|all-reduce|all-to-all|collective-broadcast'
  r'|collective-permute|ragged-all-to-all|reduce-scatter)\('
)
_ASYNCHRONOUS = re.compile(r' (?:all|collective|reduce)[\w-]*-start\(')
_ARRAY = re.compile(r'\b(pred|bf16|[a-z]+(\d+)\w*)\[([\d,]*)\]')
_BRANCHES = re.compile(
  r'branch_computations=\{([^}]*)\}'
  r'|true_computation=(\S+?), false_computation=([\w.%-]+)'
)


class Traffic(NamedTuple):
  """Bytes of the results of collectives on one device, in one run.

  Attributes:
    least: Where each conditional takes the branch with the least.
    most: Where it takes the one with the most.
  """

  least: int
  most: int


def traffic(program: str) -> Traffic:
  """Counts the bytes that collectives hand to a device.

  A loop counts as often as it runs.

  Args:
    program: The text of a compiled program, as `compiled.as_text()` gives it.

  Returns:
    The `Traffic`.

  Raises:
    ValueError: If a loop with collectives runs XLA does not know how often, or
      there are asynchronous collectives, which XLA makes on no CPU.
  """
  if _ASYNCHRONOUS.search(program):
    raise ValueError('The program has asynchronous collectives.')
  computations, entry = _computations(program)

  @functools.cache
  def of(name: str) -> Traffic:
    least = most = 0
    for line in computations[name]:
      found = _COLLECTIVE.search(line)
      if found:
        size = _bytes(found[1])
        least, most = least + size, most + size
        continue
      for options, times in _called(line):
        parts = [of(option) for option in options]
        low, high = min(p.least for p in parts), max(p.most for p in parts)
        if high and times is None:
          raise ValueError(
            f'It is not known how often this loop runs: {line.strip()}'
          )
        least, most = least + low * (times or 0), most + high * (times or 0)
    return Traffic(least, most)

  return of(entry)


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
  """The lines of each computation, and the name of the first one called."""
  computations, entry, lines = {}, '', []
  for line in program.splitlines():
    found = _COMPUTATION.match(line)
    if found:
      lines = computations.setdefault(found[1], [])
      if line.startswith('ENTRY'):
        entry = found[1]
    else:
      lines.append(line)
  return computations, entry


def _called(line: str) -> list[tuple[list[str], int | None]]:
  """What a line calls: one of some computations, and how often."""
  names = lambda text: re.findall(r'[\w.-]+', text)
  if ' while(' in line:
    count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    body = re.search(r'body=%?([\w.-]+)', line)
    return [([body[1]], int(count[1]) if count else None)] if body else []
  if ' conditional(' in line:
    found = _BRANCHES.search(line)
    return [(names(' '.join(filter(None, found.groups()))), 1)] if found else []
  if ' call(' in line:
    return [(names(text), 1) for text in re.findall(r'to_apply=(\S+)', line)]
  return []


def _bytes(shapes: str) -> int:
  """The size of an array or a tuple of arrays."""
  total = 0
  for kind, bits, sizes in _ARRAY.findall(shapes):
    width = {'pred': 8, 'bf16': 16}.get(kind) or int(bits)
    total += math.prod(int(n) for n in sizes.split(',') if n) * width // 8
  return total
