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
"""The documentation: its Python runs, its links and commands lead somewhere."""

import fnmatch
import importlib.util
import inspect
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import optax
import pytest

import scl_jax
from scl_jax import rules

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = runpy.run_path(str(ROOT / 'docs' / 'public_names.py'))
PAGES = sorted(
  path for path in (ROOT / 'docs').rglob('*.md') if '_build' not in path.parts
)


def test_there_are_pages():
  assert ROOT / 'docs' / 'methods.md' in PAGES


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)
def test_python_runs(path):
  blocks = re.findall(r'^```python\n(.*?)^```', path.read_text(), re.M | re.S)
  names = {}
  for block in blocks:
    if 'scl_jax.inference.' in block and not importlib.util.find_spec('numba'):
      continue
    exec(compile(block, path.name, 'exec'), names)


def test_python_of_the_readme():
  text = (ROOT / 'README.md').read_text()
  blocks = re.findall(r'^```python\n(.*?)^```', text, re.M | re.S)
  for block in blocks:
    compile(block, 'README.md', 'exec')
  for name in re.findall(r'\bscl_jax\.(\w+)\(', text):
    assert callable(getattr(scl_jax, name))
  # The first is as in docs/getting_started.md, the last is run here.
  names = {
    'optax': optax,
    'scl_jax': scl_jax,
    'task_loss': lambda params, batch: jnp.sum(batch @ params['kernel']),
  }
  exec(compile(blocks[-1], 'README.md', 'exec'), names)
  weights = {'kernel': jnp.ones((4, 3))}
  variables = {
    'weights': weights,
    'masks': scl_jax.init_mask_params(weights),
  }

  @jax.jit
  def step(variables):
    grads = jax.grad(
      lambda v: names['objective'](v['weights'], v['masks'], jnp.ones((2, 4)))
    )(variables)
    tx = names['tx']
    return tx.update(grads, tx.init(variables), variables)[0]

  assert jnp.all(step(variables)['masks']['kernel'] != 0)


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)
def test_links_and_commands(path):
  text = path.read_text()
  headings = {
    re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-')
    for heading in re.findall(r'^#+ (.*)$', text, re.M)
  }
  for link in re.findall(r'\]\(([^)]+)\)', text):
    if link.startswith('#'):
      assert link[1:] in headings
    elif not link.startswith('https://'):
      assert (path.parent / link.partition('#')[0]).exists(), link
  for config in re.findall(r'--config=(\S+)', text):
    assert (ROOT / config).exists(), config
  for module in re.findall(r'-m (experiments(?:\.\w+)+)', text):
    assert (ROOT / f'{module.replace(".", "/")}.py').exists(), module


def test_every_rule_has_a_place():
  text = (ROOT / 'docs' / 'methods.md').read_text()
  for name, rule in inspect.getmembers(rules, inspect.isfunction):
    assert f'`{name}`' in text
    assert f'scl_jax.{name}(' in text
    assert getattr(scl_jax, name) is rule


def test_every_public_name_is_in_the_reference():
  """As the build of the site checks too, on what it has rendered."""
  text = (ROOT / 'docs' / 'api.md').read_text()
  described, module = set(), ''
  for line in text.splitlines():
    if line.startswith('.. currentmodule:: '):
      module = line.split()[-1]
    if match := re.match(
      r'\.\. auto(?:function|class|exception):: (\w+)', line
    ):
      described.add(f'{module}.{match[1]}')
  assert described == PUBLIC['public_names']()


def test_the_modules_that_users_import_are_public():
  """Those that `scl_jax` re-exports, and those that our own pages import."""
  texts = [path.read_text() for path in [*PAGES, ROOT / 'README.md']]
  texts += [path.read_text() for path in (ROOT / 'notebooks').glob('*.ipynb')]
  texts += [(ROOT / 'scl_jax' / '__init__.py').read_text()]
  named = set(re.findall(r'from scl_jax import (\w+)', '\n'.join(texts)))
  named |= set(re.findall(r'\bscl_jax\.(\w+)\.[a-z]\w+\(', '\n'.join(texts)))
  modules = {n for n in named if (ROOT / 'scl_jax' / f'{n}.py').exists()}
  modules |= {n for n in named if (ROOT / 'scl_jax' / n).is_dir()}
  assert modules <= {*PUBLIC['MODULES']}


def test_the_pages_hang_together():
  """Each page but the first is in the index, by name or by pattern."""
  text = (ROOT / 'docs' / 'index.md').read_text()
  lines = text.partition('```{toctree}')[2].split()
  for path in PAGES:
    name = str(path.relative_to(ROOT / 'docs').with_suffix(''))
    assert name == 'index' or any(fnmatch.fnmatch(name, line) for line in lines)
