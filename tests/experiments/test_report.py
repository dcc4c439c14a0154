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
"""The report: what it shows, that it escapes, and the pictures in it."""

import base64
import html
import html.parser
import io
import itertools
import json
import shutil

import jax
import jax.numpy as jnp
import made_workdir
import numpy as np
from PIL import Image
import pytest
import vl_convert

from experiments import mask_history
from experiments import report
from experiments import sweep_report
from experiments.configs import digits_mlp_scl
from experiments.reporting import charts
from experiments.reporting import pictures
from experiments.reporting import reading
import scl_jax

NASTY = '</script><img src=x onerror=alert(1)>&"\''


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run') / 'digits'
  made_workdir.write(path)
  report.write(str(path))
  return path


class Page(html.parser.HTMLParser):
  """Ids, tags, links and the text of scripts."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.tags, self.links, self.scripts = [], [], [], {}
    self._script = None
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.tags.append(tag)
    self.ids += [attributes['id']] if 'id' in attributes else []
    self.links += [attributes[k] for k in ('src', 'href') if k in attributes]
    if tag == 'script':
      self._script = attributes.get('id', len(self.scripts))
      self.scripts[self._script] = ''

  def handle_endtag(self, tag):
    if tag == 'script':
      self._script = None

  def handle_data(self, data):
    if self._script is not None:
      self.scripts[self._script] += data


def page_of(path):
  text = (path / 'report.html').read_text()
  return text, Page(text)


def reading_masks(workdir):
  return [layer.mask for layer in reading.read(str(workdir)).layers]


def test_a_run(workdir):
  text, page = page_of(workdir)
  sections = 'over-time layers births-and-deaths masks costs how'
  assert set(sections.split()) <= set(page.ids)
  assert 'compaction' not in page.ids
  assert page.links == ['data:,']
  specs = json.loads(page.scripts['charts'])
  assert list(specs) == [
    'validation_accuracy', 'density', 'loss', 'layer_density',
    'live_features', 'inputs', 'births', 'layer_densities',
  ]  # fmt: skip
  assert [f'data-chart="{name}"' in text for name in specs] == [True] * 8
  live = sum(int(np.sum(m)) for m in reading_masks(workdir))
  assert f'{live:,} of 2,220' in text
  run = json.loads((workdir / 'run.json').read_text())
  assert run['versions']['scl_jax'] == scl_jax.__version__
  assert run['image_shape'] == [8, 8, 1]
  assert run['versions']['jax'] in text
  # Vega's runtime is nearly all of it.
  assert len(text) < 1_200_000


def test_charts_are_drawn(workdir):
  _, page = page_of(workdir)
  for name, spec in json.loads(page.scripts['charts']).items():
    width = spec['width'] if spec['width'] != 'container' else 300
    svg = vl_convert.vegalite_to_svg({**spec, 'width': width})
    assert svg.count('<path') > 5, name


def test_masks_and_numbers_are_those_of_the_run(workdir):
  run = reading.read(str(workdir))
  _, page = page_of(workdir)
  shown = json.loads(page.scripts['pictures'])
  assert [layer.name for layer in run.layers] == list(shown)
  for layer in run.layers:
    ink = decode(shown[layer.name]['source'])
    np.testing.assert_array_equal(ink == 255, layer.mask)
    np.testing.assert_array_equal(ink == 1, ~layer.mask)
    assert layer.live_features == layer.mask.any(axis=0).sum()
  assert run.freeze_step == 57


@pytest.mark.parametrize('method', ['dynamic_sparse_training', 'snip'])
def test_masks_that_are_fixed_never_or_always(tmp_path, method):
  made_workdir.write(tmp_path)
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'method': method}))
  assert reading.read(str(tmp_path)).freeze_step is None


def test_metrics_that_are_cut_off(tmp_path):
  made_workdir.write(tmp_path)
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text()[:-9])
  with pytest.raises(ValueError, match=r'metrics\.jsonl holds a line that'):
    reading.read(str(tmp_path))


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('metrics.jsonl', '[1]', 'holds a line that is no point'),
    ('metrics.jsonl', '{"a": 1}', 'holds a line that is no point'),
    ('result.json', '{}', 'lacks test_accuracy, density, seconds'),
    ('result.json', 'null', 'holds no JSON object'),
    ('config.json', '{"model": "lenet300"}', 'lacks dataset, method'),
    ('config.json', '[1]', 'holds no JSON object'),
    ('run.json', '[1]', 'holds no JSON object'),
  ],
)
def test_json_of_another_shape(tmp_path, name, content, message):
  made_workdir.write(tmp_path)
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=f'{name} {message}'):
    reading.read(str(tmp_path))


def test_history_of_masks(tmp_path):
  """Against the definition, on unpacked masks."""
  written = made_workdir.write(tmp_path)
  run = reading.read(str(tmp_path))
  assert list(run.mask_bits) == [0, 19, 38, 57, 76]
  masks = [
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) != 0
    for tree in written
  ]
  rows = mask_history.changes(run.mask_bits)
  pairs = itertools.pairwise(masks)
  for row, (before, now) in zip(rows, pairs, strict=True):
    assert row['births'] == (now & ~before).sum()
    assert row['deaths'] == (before & ~now).sum()
    assert row['live'] == now.sum()
  back = masks[-1] & ~np.logical_and.reduce(masks)
  assert mask_history.returned(run.mask_bits) == back.sum() > 0
  densities = mask_history.layer_densities(
    run.mask_bits, list(made_workdir.SHAPES.values())
  )
  for values, tree in zip(densities.values(), written, strict=True):
    expected = [np.mean(leaf) for leaf in jax.tree.leaves(tree)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
  size = sum(f.stat().st_size for f in (tmp_path / 'mask_history').iterdir())
  bits = 64 * 30 // 8 + -(-30 * 10 // 8)
  assert size == 5 * (bits + 128)  # 128: the header of .npy


def test_history_of_other_masks(tmp_path):
  mask_history.write(str(tmp_path), 3, {'a': jnp.eye(3), 'b': None})
  (bits,) = mask_history.read(str(tmp_path), [(3, 3)])[3]
  np.testing.assert_array_equal(np.unpackbits(bits, count=9), np.eye(3).ravel())
  with pytest.raises(ValueError, match=r'3\.npy must hold 3 bytes'):
    mask_history.read(str(tmp_path), [(17,)])
  assert mask_history.read(str(tmp_path / 'none'), [(17,)]) == {}


def test_history_is_off_by_default():
  assert digits_mlp_scl.get_config().mask_history is False


def test_what_comes_from_files_is_escaped(workdir, tmp_path):
  path = tmp_path / 'run'
  shutil.copytree(workdir, path)
  result = json.loads((path / 'result.json').read_text())
  result['findings'] = [NASTY]
  (path / 'result.json').write_text(json.dumps(result))
  config = json.loads((path / 'config.json').read_text())
  config.update(warm_start=NASTY, dataset=NASTY)
  (path / 'config.json').write_text(json.dumps(config))
  (path / 'table.md').write_text(f'| a |\n|---|\n| {NASTY} |\n')
  (path / 'compact').mkdir()
  (path / 'compact' / 'certificate.txt').write_text(NASTY)
  (path / 'run.json').write_text(json.dumps({'command': NASTY, NASTY: NASTY}))
  report.write(str(path))
  text, page = page_of(path)
  before, before_page = page_of(workdir)
  assert '<img src=x' not in text
  assert page.tags.count('img') == before_page.tags.count('img')
  assert page.tags.count('script') == before_page.tags.count('script')
  assert text.count('&lt;img src=x onerror=alert(1)&gt;') >= 5
  assert 'compaction' in page.ids
  # Scripts are the same, so the policy's hashes are too.
  policy = lambda text: text.split('script-src ')[1].split(';')[0]
  assert policy(text) == policy(before)
  assert 'unsafe' not in policy(text)


def test_layer_names_cannot_end_a_script():
  embedded = report.page._embedded({NASTY: ['<!--', NASTY]})
  assert '<' not in embedded
  assert json.loads(embedded) == {NASTY: ['<!--', NASTY]}


POINT = {'live': 3, 'seconds': 1.0, 'density': 0.1}


@pytest.mark.parametrize('kind', ['sweep', 'compare'])
@pytest.mark.parametrize(
  'origin',
  [{'commands': ['the command', 'and another']}, {'command': 'the command'}],
  ids=['', 'older'],
)
def test_many_runs(tmp_path, kind, origin):
  key = (
    {'field': 'target_density', 'value': 0.1}
    if kind == 'sweep'
    else {
      'method': 'scl', 'asked': 0.1, 'compression': 9.0, 'speedup': 9.0,
      'training_cost': 0.5,
    }
  )  # fmt: skip
  points = [
    {**POINT, **key, 'seed': seed, 'accuracy': accuracy}
    for seed, accuracy in enumerate([0.96, 0.97, 0.98])
  ]
  config = {
    'method': 'scl',
    'model': 'lenet300',
    'dataset': 'digits',
    'epochs': 3,
  }
  if kind == 'compare':
    config['compare'] = {'trials': {}}
  results = {**origin, 'config': config, 'points': points}
  (tmp_path / 'results.json').write_text(json.dumps(results))
  report.write(str(tmp_path))
  text, page = page_of(tmp_path)
  specs = json.loads(page.scripts['charts'])
  (row,) = specs['front']['layer'][-1]['data']['values']
  assert row['low'] == pytest.approx(96.0)
  assert row['high'] == pytest.approx(98.0)
  assert row['shown'] == '97.00 ± 1.00 %'
  commands = '\n'.join(origin.get('commands', ['the command']))
  assert f'<pre tabindex="0">{commands}</pre>' in text
  assert 'masks' not in page.ids
  svg = vl_convert.vegalite_to_svg({**specs['front'], 'width': 300})
  assert 'live connections (%)' in svg
  # And what the commands may leave to a config file.
  asked = (
    {'densities': [0.1], 'penalties': [], 'seeds': 3}
    if kind == 'sweep'
    else {'compare': {'trials': {}, 'methods': ['scl'], 'seeds': 3}}
  )
  front = reading.read(str(tmp_path))
  assert isinstance(front, reading.Front)
  assert front.config == {**config, **asked}
  assert json.dumps(front.config, indent=2) in html.unescape(text)


def test_no_point_has_a_live_connection(tmp_path):
  """A logarithmic axis has no place for any."""
  point = {
    'field': 'penalty', 'value': 100.0, 'seed': 0, 'accuracy': 0.1,
    'density': 0.0, 'live': 0, 'seconds': 1.0,
    'findings': ['Nothing is <left>.'],
  }  # fmt: skip
  config = {'method': 'scl', 'model': 'm', 'dataset': 'd', 'epochs': 1}
  results = {'split': 'test', 'config': config, 'points': [point]}
  (tmp_path / 'results.json').write_text(json.dumps(results))
  sweep_report.write(str(tmp_path), results)
  assert (tmp_path / 'front.png').exists()
  report.write(str(tmp_path))
  text, page = page_of(tmp_path)
  assert page.scripts['charts'] == '{}'
  assert (
    '| λ = 100 | 0 % | 0 | 10.00 % |' in (tmp_path / 'table.md').read_text()
  )
  assert 'λ = 100, seed 0: Nothing is &lt;left&gt;.' in text


def test_one_seed_has_no_error_bar():
  row = {
    'method': 'SCL', 'density': 5.0, 'accuracy': 97.0, 'accuracy_std': None,
    'seeds': 1,
  }  # fmt: skip
  spec = charts.front([row], 'test', '')
  (value,) = spec['layer'][-1]['data']['values']
  assert (value['low'], value['high'], value['shown']) == (97, 97, '97.00 %')


def test_nothing_to_show(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'neither result\.json nor'):
    report.write(str(tmp_path))
  for text in ('{"config": {}, "points": []}', '{"epochs": 6}'):
    (tmp_path / 'results.json').write_text(text)
    with pytest.raises(ValueError, match=r'neither of experiments\.sweep'):
      report.write(str(tmp_path))
  assert not (tmp_path / 'report.html').exists()


def decode(source):
  data = base64.b64decode(source.removeprefix('data:image/png;base64,'))
  return np.asarray(Image.open(io.BytesIO(data)))


def test_kernel_grid():
  """Against a loop."""
  mask = np.random.default_rng(0).random((3, 2, 4, 5)) < 0.3
  picture = pictures.mask_picture(mask)
  expected = np.zeros((4 * 4 - 1, 5 * 3 - 1))
  for h, w, i, o in np.ndindex(mask.shape):
    expected[4 * i + h, 3 * o + w] = 255 if mask[h, w, i, o] else 1
  np.testing.assert_array_equal(decode(picture.source), expected)
  assert (picture.height, picture.width) == expected.shape
  assert '4 × 5 kernels of 3 × 2' in picture.caption


def test_large_masks_are_shown_by_blocks(monkeypatch):
  monkeypatch.setattr(pictures, '_MOST_PIXELS', 30)
  mask = np.zeros((7, 10), bool)
  mask[:2, :2] = True
  mask[6, 9] = True
  picture = pictures.mask_picture(mask)
  expected = np.ones((4, 5))
  expected[0, 0] = 255
  expected[3, 4] = 1 + 127  # one of the two that there are
  np.testing.assert_array_equal(decode(picture.source), expected)
  assert 'blocks of 2 × 2' in picture.caption.replace('block of', 'blocks of')


def test_vector_mask():
  picture = pictures.mask_picture(np.array([True, False]))
  np.testing.assert_array_equal(decode(picture.source), [[255, 1]])
