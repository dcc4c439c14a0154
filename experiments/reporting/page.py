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
"""From a template to one HTML file that needs nothing else.

What comes from files is escaped by Jinja, and in JSON by `_embedded`. Should
something slip through all the same, the page's security policy lets no script
run but the two whose hashes it names, and lets nothing be loaded.
"""

import base64
from collections.abc import Mapping
import functools
import hashlib
import json
import pathlib
from typing import Any

import jinja2
import markdown_it
import markupsafe
import vl_convert

_FOLDER = pathlib.Path(__file__).parent


def render(**values: Any) -> str:
  """The page.

  Args:
    **values: What `page.html` names.

  Returns:
    HTML.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['embedded'] = _embedded
  environment.filters['markdown'] = _markdown
  scripts = [_vega(), (_FOLDER / 'page.js').read_text(encoding='utf-8')]
  return environment.get_template('page.html').render(
    style=markupsafe.Markup((_FOLDER / 'page.css').read_text(encoding='utf-8')),
    scripts=[markupsafe.Markup(script) for script in scripts],
    hashes=[_hash(script) for script in scripts],
    **values,
  )


@functools.cache
def _vega() -> str:
  """Vega, Vega-Lite and Vega-Embed as one script; takes three seconds."""
  script = vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')
  # Within a string or a regular expression, \/ is the same as /.
  return script.replace('</script', '<\\/script')


def _hash(script: str) -> str:
  digest = hashlib.sha256(script.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(value: Mapping[str, Any]) -> markupsafe.Markup:
  """JSON for a script element, which only `</script` or `<!--` could end."""
  text = json.dumps(value, allow_nan=False, separators=(',', ':'))
  return markupsafe.Markup(text.replace('<', '\\u003c'))


def _markdown(text: str) -> markupsafe.Markup:
  """HTML of Markdown in which HTML itself is only text."""
  options = {'html': False, 'breaks': True}
  renderer = markdown_it.MarkdownIt('commonmark', options)
  return markupsafe.Markup(renderer.enable('table').render(text))
