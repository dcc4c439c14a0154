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
"""Which of several ways is fastest, on this machine, now."""

from collections.abc import Callable, Sequence
import time

import numpy as np

_SECONDS = 0.1  # for each way, about
_MOST_ROUNDS = 50
_FEWEST_ROUNDS = 3
# A call that is over sooner is repeated within a round.
_SHORT = 50e-6


def lower_quartiles(
  ways: Sequence[Callable[[], object]], seconds: float = _SECONDS
) -> list[float]:
  """A usual time of each way on a quiet machine; the ways take turns.

  What else a machine does only ever adds to a time: where it is busy, the
  median tells of that.

  Args:
    ways: Functions without arguments; their first call is not counted.
    seconds: How long to measure each way, about.

  Returns:
    Seconds a call.
  """
  once = []
  for way in ways:
    way()
    once.append(_time(way, 1))
  repeats = [max(1, round(_SHORT / max(t, 1e-7))) for t in once]
  rounds = round(seconds / max(*once, _SHORT, 1e-9))
  rounds = min(max(rounds, _FEWEST_ROUNDS), _MOST_ROUNDS)
  times: list[list[float]] = [[] for _ in ways]
  for _ in range(rounds):
    for way, count, found in zip(ways, repeats, times, strict=True):
      found.append(_time(way, count))
  return [float(np.percentile(found, 25)) for found in times]


def _time(way: Callable[[], object], repeats: int) -> float:
  start = time.perf_counter()
  for _ in range(repeats):
    way()
  return (time.perf_counter() - start) / repeats
