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
"""Every notebook has saved outputs and runs from top to bottom."""

import pathlib

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'notebooks'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))


def test_there_are_notebooks():
  assert FOLDER / 'quickstart.ipynb' in NOTEBOOKS


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_has_saved_outputs_and_installs_first(path):
  notebook = nbformat.read(path, as_version=4)
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert '%pip install' in cells[0].source
  kinds = [output.output_type for cell in cells for output in cell.outputs]
  assert 'stream' in kinds
  assert 'display_data' in kinds
  assert 'error' not in kinds


@pytest.mark.filterwarnings('ignore')  # of the kernel's transport
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:  # a tenth of the training that was saved
    cell.source = cell.source.replace('EPOCHS, BATCH = 100', 'EPOCHS, BATCH = 10')
  client = nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3')
  client.execute()
  printed = ''.join(
    output.text
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if output.output_type == 'stream'
  )
  assert '| total ' in printed
