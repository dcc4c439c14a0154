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
"""Tests of atomic.py."""

import os
import stat

import pytest

from scl_jax import atomic


def test_writes_and_replaces(tmp_path):
  path = tmp_path / 'file'
  atomic.write(path, b'old')
  atomic.write(str(path), b'new')
  assert path.read_bytes() == b'new'
  assert os.listdir(tmp_path) == ['file']


def test_has_the_usual_permissions(tmp_path):
  atomic.write(tmp_path / 'file', b'')
  (tmp_path / 'other').write_bytes(b'')
  modes = [
    stat.S_IMODE((tmp_path / n).stat().st_mode) for n in os.listdir(tmp_path)
  ]
  assert modes[0] == modes[1]


@pytest.mark.parametrize('failing', ['fsync', 'replace'])
def test_leaves_the_old_file_if_it_fails(tmp_path, monkeypatch, failing):
  path = tmp_path / 'file'
  atomic.write(path, b'old')

  def fail(*_):
    raise OSError('No space left on device')

  monkeypatch.setattr(os, failing, fail)
  with pytest.raises(OSError, match='No space'):
    atomic.write(path, b'new')
  assert path.read_bytes() == b'old'
  assert os.listdir(tmp_path) == ['file']


def test_missing_folder(tmp_path):
  path = tmp_path / 'no' / 'file'
  with pytest.raises(FileNotFoundError, match=r"'[^']*/no/file'$"):
    atomic.write(path, b'')


def test_a_folder_is_there(tmp_path):
  path = tmp_path / 'folder'
  path.mkdir()
  with pytest.raises(IsADirectoryError, match=r"'[^']*/folder'$"):
    atomic.write(path, b'')
  assert os.listdir(tmp_path) == ['folder']


def test_a_name_in_bytes(tmp_path):
  atomic.write(os.fsencode(tmp_path / 'file'), b'data')
  assert (tmp_path / 'file').read_bytes() == b'data'
