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
"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

# In a process of its own, as it cannot be undone.
_PROGRAM = """
import resource
import numpy as np
from experiments import host_memory

def faults(rounds):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(rounds):
    np.full(2**25, 1, np.uint8)  # 32 MiB: above the most that glibc keeps
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

mapped = faults(20)
done = host_memory.keep_freed_memory()
faults(1)
print(int(done), mapped, faults(20))
"""


def test_pages_are_not_cleared_again():
  pytest.importorskip('resource')
  done, mapped, kept = map(
    int,
    subprocess.run(
      [sys.executable, '-c', _PROGRAM],
      check=True,
      capture_output=True,
      text=True,
    ).stdout.split(),
  )
  if not done:
    pytest.skip('This is not glibc.')
  assert kept < mapped / 10
