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
"""The report in a real browser, where there is one."""

import io
import json
import shutil

import made_workdir
import numpy as np
from PIL import Image
import pytest

from experiments import report

webdriver = pytest.importorskip('selenium.webdriver')

from selenium.webdriver.chrome import service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support import ui  # noqa: E402

BROWSER = shutil.which('chromium') or shutil.which('google-chrome')
DRIVER = shutil.which('chromedriver')

pytestmark = pytest.mark.skipif(
  BROWSER is None or DRIVER is None,
  reason='needs chromium and chromedriver on the PATH',
)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run') / 'digits'
  made_workdir.write(path)
  report.write(str(path))
  return path


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  for argument in (
    'headless',
    'no-sandbox',
    'disable-gpu',
    'disable-quic',
    'no-first-run',
    'disable-background-networking',
    'hide-scrollbars',
    f'user-data-dir={tmp_path_factory.mktemp("browser")}',
  ):
    options.add_argument(f'--{argument}')
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  driver = webdriver.Chrome(options=options, service=service.Service(DRIVER))
  yield driver
  driver.quit()


def show(browser, workdir, *, width=1100, theme='light'):
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
  )
  browser.execute_cdp_cmd(
    'Emulation.setEmulatedMedia',
    {'features': [{'name': 'prefers-color-scheme', 'value': theme}]},
  )
  browser.get_log('browser')  # what was logged before
  browser.get((workdir / 'report.html').as_uri())
  wait_for(browser, theme)


def wait_for(browser, theme):
  """Until all charts are drawn."""
  drawn = 'return document.documentElement.dataset.drawn'
  ui.WebDriverWait(browser, 30, 0.05).until(
    lambda driver: driver.execute_script(drawn) == theme
  )


def pixels(element):
  image = Image.open(io.BytesIO(element.screenshot_as_png)).convert('L')
  return np.asarray(image, np.float32)


@pytest.mark.parametrize(('width', 'theme'), [(390, 'dark'), (1100, 'light')])
def test_renders(browser, workdir, width, theme):
  show(browser, workdir, width=width, theme=theme)
  assert browser.get_log('browser') == []
  charts = browser.find_elements(By.CSS_SELECTOR, '[data-chart]')
  assert len(charts) == 8
  for chart in charts:
    (svg,) = chart.find_elements(By.CSS_SELECTOR, 'svg.marks')
    assert svg.size['width'] <= chart.size['width'] + 1
    assert len(svg.find_elements(By.TAG_NAME, 'path')) > 5
  # Nothing is wider than the screen, but for what scrolls by itself.
  inner = 'return document.documentElement.scrollWidth'
  assert browser.execute_script(inner) == width
  # Each section has a page's colour and ink on it, neither blank nor full.
  for section in browser.find_elements(By.TAG_NAME, 'section'):
    shades = pixels(section)
    page = np.median(shades)
    assert page > 200 if theme == 'light' else page < 60
    ink = np.mean(np.abs(shades - page) > 40)
    assert 0.002 < ink < 0.7, section.get_attribute('id')
  loaded = browser.execute_script(
    "return performance.getEntriesByType('resource').map(e => e.name)"
  )
  assert [name for name in loaded if not name.startswith('data:')] == []


def test_layer_picker_and_zoom(browser, workdir):
  show(browser, workdir)
  script = browser.find_element(By.ID, 'pictures').get_attribute('textContent')
  masks = json.loads(script)
  picker = ui.Select(browser.find_element(By.ID, 'layer'))
  image = browser.find_element(By.CSS_SELECTOR, '#mask img')
  zoom = browser.find_element(By.ID, 'zoom')
  assert [option.text for option in picker.options] == list(masks)
  for name, mask in masks.items():
    picker.select_by_visible_text(name)
    natural = 'return [arguments[0].naturalWidth, arguments[0].naturalHeight]'
    ui.WebDriverWait(browser, 10, 0.05).until(
      lambda driver, size=(mask['width'], mask['height']): (
        tuple(driver.execute_script(natural, image)) == size
      )
    )
    assert mask['numbers'] in browser.find_element(By.ID, 'numbers').text
  zoom.send_keys(Keys.HOME)
  smallest = image.size['width']
  zoom.send_keys(Keys.END)
  assert image.size['width'] == 32 * masks[name]['width'] > smallest


def test_keyboard(browser, workdir):
  """Tab reaches all that can be used, and each shows that it has the focus."""
  show(browser, workdir)
  reached, outlines = [], []
  body = browser.find_element(By.TAG_NAME, 'body')
  for _ in range(40):
    (body if not reached else browser.switch_to.active_element).send_keys(
      Keys.TAB
    )
    active = browser.switch_to.active_element
    if active.tag_name == 'body':
      break
    reached.append(active.get_attribute('id') or active.tag_name)
    outlines.append(active.value_of_css_property('outline-style'))
  assert {'theme', 'layer', 'zoom', 'mask', 'summary'} <= set(reached)
  assert 'none' not in outlines
  # The mask moves by arrow keys, and the button by Enter.
  browser.find_element(By.ID, 'zoom').send_keys(Keys.END)
  frame = browser.find_element(By.ID, 'mask')
  browser.execute_script('arguments[0].scrollTo(0, 0)', frame)
  frame.send_keys(Keys.ARROW_DOWN)
  ui.WebDriverWait(browser, 10, 0.05).until(
    lambda driver: driver.execute_script('return arguments[0].scrollTop', frame)
  )
  browser.find_element(By.ID, 'theme').send_keys(Keys.ENTER)
  wait_for(browser, 'dark')
  assert browser.get_log('browser') == []


def test_chart_that_cannot_be_drawn(browser, workdir, tmp_path):
  """It says so, and the others are drawn."""
  text = (workdir / 'report.html').read_text()
  broken = text.replace('"mark":"rect"', '"mark":"nonsense"', 1)
  assert broken != text
  (tmp_path / 'report.html').write_text(broken)
  show(browser, tmp_path)
  assert (
    'could not be drawn' in browser.find_element(By.CLASS_NAME, 'error').text
  )
  assert len(browser.find_elements(By.CSS_SELECTOR, 'svg.marks')) == 7
