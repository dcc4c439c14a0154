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
"""Tests of control.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import control

pytestmark = pytest.mark.usefixtures('strict')


@pytest.mark.parametrize('target', [1.0, 0.5, 0.1, 0.005])
def test_goal_falls_from_one_to_the_target_in_equal_ratios(target):
  goals = np.array(
    [control.goal_density(count, target, 10) for count in range(15)]
  )
  assert goals[0] == 1
  np.testing.assert_allclose(goals[10:], target, rtol=1e-6)
  np.testing.assert_allclose(goals[1:11] / goals[:10], target**0.1, rtol=1e-5)


def test_goal_of_arrays():
  goal = jax.jit(control.goal_density)(jnp.int32(5), jnp.float32(0.25), 10)
  np.testing.assert_allclose(goal, 0.5)
  assert goal.dtype == jnp.float32
  assert goal.shape == ()


def test_goal_without_a_ramp_is_the_target_from_the_first_step_on():
  assert control.goal_density(1, 0.25, 0) == 0.25


def _state(target, integral=0.0, scale=0.04):
  state = control.init_control(target, integral)
  return control.measure_scale(state, lambda: jnp.array([scale, -scale]))


def _update(density, goal=0.1, integral=0.0):
  penalty, state = control.update_control(
    _state(goal, integral), 10, density, num_steps=40, ramp_steps=10
  )
  np.testing.assert_allclose(state.target, goal)
  np.testing.assert_allclose(state.scale, 0.04)
  return float(penalty), float(state.integral)


@pytest.mark.parametrize('integral', [-0.05, 0.0, 0.05])
@pytest.mark.parametrize('density', [0.05, 0.1, 0.101, 0.2])
def test_law_against_numpy(density, integral):
  error = np.log(density / 0.1)
  penalty, total = _update(density, integral=integral)
  np.testing.assert_allclose(total, integral + 10 / 40 * error, atol=1e-6)
  np.testing.assert_allclose(penalty, 0.04 * (total + 0.75 * error), atol=1e-7)


def test_sign_of_the_price():
  assert _update(0.11)[0] > 0  # too dense: connections cost
  assert _update(0.09)[0] < 0  # too sparse: they are paid
  assert abs(_update(0.1)[0]) < 1e-6


@pytest.mark.parametrize(
  ('density', 'error'), [(1.0, 1), (0.28, 1), (0.03, -1), (0.0, -1)]
)
def test_the_error_is_clipped(density, error):
  penalty, total = _update(density)
  np.testing.assert_allclose(total, 0.25 * error, rtol=1e-5)
  np.testing.assert_allclose(penalty, 0.04 * error, rtol=1e-5)


@pytest.mark.parametrize('density', [0, 0.0, jnp.float32(0), np.float32(0)])
def test_nothing_left_is_no_nan(density):
  assert _update(density) == _update(0.0)
  assert np.isfinite(_update(density)).all()


def test_gains_and_ramp():
  penalty, state = control.update_control(
    _state(0.01, 0.5, scale=3.0),
    5,
    0.2,
    num_steps=20,
    ramp_steps=10,
    proportional=2.0,
    integral=5.0,
  )
  # Half way the goal is 0.1, so that the error is log 2.
  np.testing.assert_allclose(state.integral, 0.5 + 0.25 * np.log(2), rtol=1e-6)
  expected = 3 * (state.integral + 2 * np.log(2))
  np.testing.assert_allclose(penalty, expected, rtol=1e-6)


def test_the_scale_is_measured_once():
  rng = np.random.default_rng(0)
  gradients = {
    'a': rng.normal(size=(30, 4)).astype(np.float32),
    'b': None,
    'c': 9 * rng.normal(size=7).astype(np.float32),
  }
  leaves = jax.tree.map(jnp.asarray, gradients)
  flat = np.concatenate([gradients['a'].ravel(), gradients['c']])
  measure = jax.jit(
    lambda state, leaves: control.measure_scale(state, lambda: leaves)
  )
  state = control.init_control(0.1)
  assert state.scale == 0
  # Nothing to measure yet: it waits.
  state = measure(state, jax.tree.map(jnp.zeros_like, leaves))
  assert state.scale == 0
  state = measure(state, leaves)
  np.testing.assert_allclose(
    state.scale, np.sqrt(np.mean(flat.astype(np.float64) ** 2)), rtol=1e-6
  )
  again = measure(state, jax.tree.map(lambda g: 10 * g, leaves))
  assert again.scale == state.scale
  assert again.integral == state.integral


def test_state_keeps_its_spec_and_does_not_recompile():
  state = control.init_control(0.1)
  spec = jax.eval_shape(lambda: state)
  assert all(leaf.dtype == jnp.float32 for leaf in state)
  assert state.integral == np.float32(0.05)

  @jax.jit
  def update(state, count, density):
    state = control.measure_scale(state, lambda: jnp.ones(3))
    return control.update_control(
      state, count, density, num_steps=20, ramp_steps=9
    )

  for count in range(3):
    price, state = update(state, jnp.int32(count), jnp.float32(0.5))
    assert price.shape == ()
    assert jax.eval_shape(lambda s=state: s) == spec
  assert update._cache_size() == 1


def _run(target, plant, steps=8000, ramp_steps=1000, lag=0.05):
  """The controller on a plant whose density follows `plant(λ)` with a lag."""

  def step(carry, count):
    density, state = carry
    price, state = control.update_control(
      state, count, density, num_steps=steps, ramp_steps=ramp_steps
    )
    log_density = jnp.log(density)
    log_density += lag * (plant(price) - log_density)
    density = jnp.minimum(1.0, jnp.exp(log_density))
    return (density, state), (density, price)

  start = (jnp.float32(1), _state(target))
  return jax.lax.scan(step, start, jnp.arange(steps))[1]


@pytest.mark.parametrize(
  'plant',
  [
    lambda price: -400 * price,  # proportional in the log
    # A power law, as measured for SCL: a slope of -1.6 in log-log.
    lambda price: -1.6 * jnp.log1p(jnp.maximum(price, 0.0) / 0.004),
    lambda price: -200 * (price + 0.01),  # needs a negative price to be dense
  ],
)
def test_a_closed_loop_settles_at_every_target(plant):
  targets = jnp.array([0.5, 0.1, 0.01])
  density, price = jax.jit(jax.vmap(lambda t: _run(t, plant)))(targets)
  expected = np.broadcast_to(targets[:, None], (3, 500))
  np.testing.assert_allclose(density[:, -500:], expected, rtol=0.02)
  assert np.ptp(price[:, -100:], axis=1).max() < 1e-3
  # The goal is not overshot by much on the way.
  assert np.all(density > 0.9 * targets[:, None])


def test_a_closed_loop_comes_back_from_an_undershoot():
  # A disturbance wipes the network out; a price >= 0 could not mend it.
  def step(carry, count):
    density, state = carry
    price, state = control.update_control(
      state, count, density, num_steps=6000, ramp_steps=1
    )
    density = density * jnp.exp(-price)  # no price, no change
    density = jnp.where(count == 2000, 1e-3, jnp.minimum(1.0, density))
    return (density, state), (density, price)

  start = (jnp.float32(1), _state(0.1))
  _, (density, price) = jax.jit(
    lambda: jax.lax.scan(step, start, jnp.arange(6000))
  )()
  np.testing.assert_allclose(density[1900:2000], 0.1, rtol=0.05)
  assert price[2001] < 0
  np.testing.assert_allclose(density[-500:], 0.1, rtol=0.05)
