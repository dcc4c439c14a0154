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
"""How Sphinx builds these pages: `make docs`."""

import pathlib
import re
import shutil
import sys
from typing import Any

from sphinx.util import logging

_HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(_HERE.parent), str(_HERE)]  # described, and helper

import public_names  # noqa: E402

import scl_jax  # noqa: E402

project = 'scl_jax'
author = 'The scl_jax Authors'
copyright = f'2026, {author}'
version = release = scl_jax.__version__

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
]
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = 'scl_jax'

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3
nb_execution_mode = 'off'  # notebooks are run by the tests, outputs are saved

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # docstrings say shapes, which types do not
python_maximum_signature_line_length = 80
default_role = 'code'  # docstrings have `code` in single backquotes
napoleon_include_init_with_doc = False
napoleon_use_ivar = True


def _check_reference(app: Any, env: Any) -> None:
  """With `-W` the build fails for a public name that no page describes."""
  described = set(env.get_domain('py').objects)
  for name in sorted(public_names.public_names() - described):
    logging.getLogger(__name__).warning(
      '%s is public and not described: name it in docs/api.md.', name
    )


def _readable(app, what, name, obj, options, lines):
  """What plain text means in docstrings, in reStructuredText.

  An indented block is a formula or code, as it stands; a lone star or bar is
  a star or a bar.
  """
  del app, what, name, obj, options
  found, indent, is_block, is_doctest = [], 0, False, False
  for line in lines:
    text = line.strip()
    depth = len(line) - len(line.lstrip())
    is_doctest = bool(text) and (is_doctest or text.startswith('>>>'))
    if text and not is_doctest:
      after_blank = bool(found) and not found[-1].strip()
      if is_block:
        is_block = depth > indent
      elif after_blank and depth >= indent + 4:
        is_block = True
        found += [' ' * indent + '::', '']
      if not is_block:
        indent = depth
        parts = line.split('`')  # every second is code
        parts[::2] = [re.sub(r'(?<!\\)([*|])', r'\\\1', p) for p in parts[::2]]
        line = '`'.join(parts)
    found.append(line)
  lines[:] = found


def _copy_notebooks(app: Any) -> None:
  """Sphinx reads nothing outside of its folder, so they are copied."""
  target = _HERE / 'notebooks'
  shutil.rmtree(target, ignore_errors=True)
  target.mkdir()
  for path in (_HERE.parent / 'notebooks').glob('*.ipynb'):
    text = path.read_text(encoding='utf-8')
    (target / path.name).write_text(
      text.replace('](../docs/', '](../'), encoding='utf-8'
    )


def _lead_to_notebooks(app: Any, name: str, content: list[str]) -> None:
  """Links that are right in the repository, to the copies."""
  del app, name
  content[0] = re.sub(r'\]\((?:\.\./)+notebooks/', '](/notebooks/', content[0])


def setup(app: Any) -> None:
  """Connects the above."""
  _copy_notebooks(app)
  app.connect('source-read', _lead_to_notebooks)
  app.connect('autodoc-process-docstring', _readable)
  app.connect('env-check-consistency', _check_reference)
