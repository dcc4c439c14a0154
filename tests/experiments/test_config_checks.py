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
"""What cannot be is refused before anything is read."""

import pytest

from experiments import config_checks
from experiments.configs import default

NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
  ('name', 'value', 'wanted'),
  [
    ('seed', -1, 'in [0, 2**32)'),
    ('epochs', 0, '>= 1'),
    ('image_size', 0, '>= 1, or None'),
    ('label_smoothing', NAN, 'in [0, 1)'),
    ('learning_rate', 0.0, 'finite and > 0'),
    ('learning_rate', INF, 'finite and > 0'),
    ('weight_decay', -1.0, '>= 0, 0 for none'),
    ('weight_decay', NAN, '>= 0, 0 for none'),
    ('clip_norm', NAN, '>= 0, 0 for none'),
    ('schedule_factor', NAN, 'finite and >= 0'),
    ('schedule_boundaries', (30,), 'shares of the run, in (0, 1)'),
    ('schedule_boundaries', ('half',), 'shares of the run, in (0, 1)'),
    ('pixel_mean', ('grey',), 'a finite number for each channel'),
    ('pixel_std', (NAN,), 'a finite number for each channel'),
    (
      'stream_crop_area',
      (0.5, 0.1),
      'two shares, 0 < smallest <= largest <= 1',
    ),
  ],
)
def test_numbers_out_of_range(name, value, wanted):
  config = default.get_config()
  config_checks.check_numbers(config)
  config[name] = value
  with pytest.raises(ValueError, match=f'^config.{name} must be ') as error:
    config_checks.check_numbers(config)
  assert str(error.value) == f'config.{name} must be {wanted}, got {value}.'


def test_lists_of_numbers():
  assert config_checks.as_numbers('x', [3, 0.5]) == (3.0, 0.5)
  assert config_checks.as_shares('x', (1, 0.5)) == (1.0, 0.5)
  assert config_checks.as_numbers('x', ()) == ()


@pytest.mark.parametrize(
  'values', [(None,), ((0.1,),), ('a',), ('0.1',), (0.1, NAN), 0.1, 'a', None]
)
def test_lists_of_something_else(values):
  for convert in (config_checks.as_numbers, config_checks.as_shares):
    with pytest.raises(ValueError, match=r'^config\.x must hold') as error:
      convert('config.x', values)
    assert str(error.value).endswith(f'got {values!r}.')


@pytest.mark.parametrize('share', [0, -0.1, 1.5])
def test_shares_out_of_range(share):
  with pytest.raises(ValueError, match=r'^config\.x must be in \(0, 1\], got'):
    config_checks.as_shares('config.x', (0.5, share))


def test_fields_that_are_missing():
  config = default.get_config()
  config_checks.require_fields(config, ('epochs', 'scl.box'), 'one.py')
  for name, missing in (
    ('alphas', 'alphas'),
    ('nnrelief.cut', 'nnrelief'),
    ('scl.cut', 'scl.cut'),
    ('epochs.cut', 'epochs.cut'),
  ):
    with pytest.raises(
      ValueError, match=rf'^config\.{missing} is missing.*/one\.py\.$'
    ):
      config_checks.require_fields(config, ('epochs', name), 'one.py')
