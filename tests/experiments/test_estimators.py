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
"""The script on the positivity principle says what the theory says."""

import pytest

from experiments import estimators
from scl_jax import ste


@pytest.mark.parametrize(
    ('name', 'steps'),
    [('identity', 1501), ('leaky_relu', 15001), ('softplus', 4983),
     ('sigmoid', 7259), ('tanh', 3256), ('relu', None), ('polynomial', None)],
)  # fmt: skip
def test_steps_to_return(name, steps):
  found = estimators.steps_to_return(ste.ESTIMATORS[name])
  assert found == (steps if steps is None else pytest.approx(steps, abs=1))


@pytest.mark.parametrize('name', ['relu', 'clipped_identity', 'polynomial'])
def test_without_the_principle_masks_are_stuck(name):
  assert estimators.share_stuck(ste.ESTIMATORS[name]) > 0.4


@pytest.mark.parametrize('name', ['identity', 'leaky_relu'])
def test_with_the_principle_none_is(name):
  assert estimators.share_stuck(ste.ESTIMATORS[name]) == 0


@pytest.mark.parametrize(
  ('name', 'shares'), [('identity', (0.3, 0.7)), ('leaky_relu', (0.041, 0.189))]
)
def test_share_of_time_open(name, shares):
  derivative = ste.ESTIMATORS[name]
  found = [estimators.share_open(derivative, o) for o in (0.3, 0.7)]
  assert found == pytest.approx(shares, abs=2e-3)
