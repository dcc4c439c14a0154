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
import re

import nbclient
import nbformat
import pytest

import scl_jax

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))

# Less to train, by the name of the notebook: what is replaced in its code.
QUICKER = {
  'comparison': {
    "METHODS = ('scl', 'gradual_magnitude', 'random')": (
      "METHODS = ('scl', 'random')"
    ),
    'DENSITIES = (0.1, 0.02)': 'DENSITIES = (0.1,)',
    'SEEDS, EPOCHS = 2, 20': 'SEEDS, EPOCHS = 1, 2',
  },
  'quickstart': {'EPOCHS, BATCH = 100': 'EPOCHS, BATCH = 10'},
}


def test_there_are_notebooks():
  assert {path.stem for path in NOTEBOOKS} == {
    'comparison',
    'other_frameworks',
    'positivity_principle',
    'quickstart',
    'small_and_fast',
  }


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_has_a_badge_and_saved_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  assert notebook.cells[0].cell_type == 'markdown'
  assert notebook.cells[0].source.startswith(
    '[![Open in Colab](https://colab.research.google.com/assets/'
    'colab-badge.svg)](https://colab.research.google.com/'
  )
  cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
  kinds = [output.output_type for cell in cells for output in cell.outputs]
  assert 'stream' in kinds
  assert 'display_data' in kinds
  assert 'error' not in kinds


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_installs_what_is_tested(path):
  notebook = nbformat.read(path, as_version=4)
  first = next(cell for cell in notebook.cells if cell.cell_type == 'code')
  (line,) = re.findall(r'%pip install -q (.*)', first.source)
  pins = dict(word.strip("'").split('==') for word in line.split())
  (library,) = [name for name in pins if name.startswith('scl_jax')]
  assert pins.pop(library) == scl_jax.__version__
  constraints = (ROOT / 'constraints.txt').read_text().splitlines()
  assert {f'{name}=={pin}' for name, pin in pins.items()} <= {*constraints}


@pytest.mark.filterwarnings('ignore')  # of the kernel's transport
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path):
  notebook = nbformat.read(path, as_version=4)
  for old, new in QUICKER.get(path.stem, {}).items():
    (cell,) = [cell for cell in notebook.cells if old in cell.source]
    cell.source = cell.source.replace(old, new)
  client = nbclient.NotebookClient(notebook, timeout=300, kernel_name='python3')
  client.execute()
  printed = ''.join(
    output.text
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if output.output_type == 'stream'
  )
  assert re.search(r'^\| (total|SCL) .*\d', printed, re.MULTILINE)
