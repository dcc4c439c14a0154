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
"""What benchmarks refuse before they measure anything."""

import os
import subprocess
import sys

import pytest

from experiments.benchmarks import preflight


# In processes of their own, as several of them define a flag of one name.
@pytest.mark.parametrize(
  ('module', 'arguments', 'message'),
  [
    (
      'inference',
      [],
      'ValueError: There is nothing to measure: give',
    ),
    (
      'throughput',
      ['--only=LeNet', '--output=no/such/folder/x.json'],
      'FileNotFoundError: --output: there is no folder no/such/folder: make it',
    ),
  ],
)
def test_in_one_line(module, arguments, message):
  process = subprocess.run(
    [sys.executable, '-m', f'experiments.benchmarks.{module}', *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 1
  assert not process.stdout
  assert process.stderr.startswith(message)
  assert process.stderr.count('\n') == 1


def test_where_the_outcome_goes(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for path in (None, 'x.json', str(tmp_path / 'x.json')):
    preflight.check_output(path)
  with pytest.raises(FileNotFoundError, match='there is no folder none: make'):
    preflight.check_output('none/x.json')
  with pytest.raises(IsADirectoryError, match='name a file in it'):
    preflight.check_output(str(tmp_path))
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
  with pytest.raises(PermissionError, match=r'--output: \. cannot be'):
    preflight.check_output('x.json')


def test_what_is_measured():
  names = ('ResNet-20, batch 128', 'ResNet-56', 'MLP')
  assert preflight.selected(names, None) == [*names]
  assert preflight.selected(names, ['MLP', 'ResNet-2']) == [names[0], 'MLP']
  with pytest.raises(ValueError, match=r'--only=VGG must .*: ResNet-20.*MLP'):
    preflight.selected(names, ['MLP', 'VGG'])
