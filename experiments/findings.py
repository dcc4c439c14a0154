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
"""What was found in the runs of an experiment, in words."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Arguments that the doctor of the library speaks of, and what sets them here.
_FIELDS = {
  'freeze_step': 'config.freeze_at, a share of the run',
  'ramp': 'config.scl.ramp',
}


def of_runs(
  points: Sequence[Mapping[str, Any]],
  name: Callable[[Mapping[str, Any]], str],
) -> list[str]:
  """What was found in each run, after the name of the run.

  Args:
    points: Those of `results.json`, with `seed` and, but for older ones,
      `findings`.
    name: What a run is called, without its seed.

  Returns:
    A line for each finding.
  """
  return [
    f'{name(point)}, seed {point["seed"]}: {finding}'
    for point in points
    for finding in point.get('findings', [])
  ]


def to_text(findings: Sequence[str]) -> str:
  """The lines that a command ends with, and what they name in a config."""
  lines = [f'Look into this: {finding}\n' for finding in findings]
  named = [
    f'{argument} is {field}'
    for argument, field in _FIELDS.items()
    if any(argument in finding for finding in findings)
  ]
  if named:
    lines.append(f'In a config {", and ".join(named)}.\n')
  return ''.join(lines)
