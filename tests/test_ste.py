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
"""Tests of ste.py: the unit step, its surrogates, the positivity principle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import ste

pytestmark = pytest.mark.usefixtures('strict')


def _sigmoid(m):
  return 1 / (1 + np.exp(-m))


# The surrogates as papers/scl.md states them.
FORMULAS = {
  'identity': lambda m: np.ones_like(m),
  'leaky_relu': lambda m: np.where(m > 0, 1.0, 0.1),
  'softplus': _sigmoid,
  'relu': lambda m: np.where(m > 0, 1.0, 0.0),
  'clipped_identity': lambda m: np.where(np.abs(m) <= 1, 1.0, 0.0),
  'tanh': lambda m: np.cosh(m) ** -2.0,
  'sigmoid': lambda m: np.exp(-np.abs(m)) / (1 + np.exp(-np.abs(m))) ** 2,
  'polynomial': lambda m: np.select(
    [np.abs(m) <= 0.4, np.abs(m) <= 1], [2 - 4 * np.abs(m), 0.4], 0.0
  ),
}
POSITIVE = ['identity', 'leaky_relu', 'softplus']
STUCK = ['relu', 'clipped_identity', 'polynomial']
SIZES = np.concatenate([np.geomspace(1e-6, 30, 61), [0.4, 0.5, 1.0, 1.5]])
GRID = np.concatenate([-SIZES, SIZES]).astype(np.float32)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def test_every_estimator_has_a_formula_here():
  assert set(FORMULAS) == set(ste.ESTIMATORS)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', FORMULAS)
def test_forward_is_exactly_zero_or_one(name, dtype):
  values = [-np.inf, -1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0, np.inf]
  m = jnp.array(values, dtype)
  step = ste.unit_step(m, name)
  assert step.dtype == dtype
  assert step.tolist() == [0.0] * 5 + [1.0] * 3
  assert not np.signbit(np.asarray(step, np.float32)).any()


@pytest.mark.parametrize('name', FORMULAS)
def test_the_smallest_normal_number_is_open(name):
  tiny = jnp.finfo(jnp.float32).tiny
  assert ste.unit_step(jnp.array([-tiny, tiny]), name).tolist() == [0.0, 1.0]


def test_python_numbers_and_numpy_arrays():
  assert ste.unit_step(0.5) == 1
  assert ste.unit_step(np.array([0.5, -0.5], np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize('name', FORMULAS)
def test_backward_is_the_surrogate(name):
  cotangent = np.linspace(-2, 2, GRID.size, dtype=np.float32)
  _, vjp = jax.vjp(lambda m: ste.unit_step(m, name), jnp.array(GRID))
  (gradient,) = vjp(jnp.array(cotangent))
  expected = cotangent * FORMULAS[name](GRID.astype(np.float64))
  # tanh: 1 - tanh² cancels, so in its tail an error of three units in the last
  # place of tanh is 4e-7, which the cotangent doubles.
  atol = 1e-6 if name == 'tanh' else 5e-7
  np.testing.assert_allclose(gradient, expected, rtol=2e-6, atol=atol)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', FORMULAS)
def test_backward_keeps_the_dtype_and_is_finite(name, dtype):
  m = jnp.array([-np.inf, -30.0, -0.0, 0.0, 0.3, 30.0, np.inf], dtype)
  gradient = jax.grad(lambda m: ste.unit_step(m, name).sum())(m)
  assert gradient.dtype == dtype
  assert jnp.all(jnp.isfinite(gradient))
  expected = FORMULAS[name](np.asarray(m, np.float64)[1:-1])
  np.testing.assert_allclose(
    np.asarray(gradient, np.float64)[1:-1], expected, atol=1e-2
  )


def _moves(name, slope):
  """The SGD update of each m on the grid, for dJ/dS = slope."""
  gradient = jax.grad(lambda m: slope * ste.unit_step(m, name).sum())
  return -0.1 * np.asarray(gradient(jnp.array(GRID)))


@pytest.mark.parametrize('slope', [-3.0, -1e-6, 1e-6, 3.0])
@pytest.mark.parametrize('name', POSITIVE)
def test_positive_estimators_move_against_the_gradient(name, slope):
  assert np.all(np.sign(_moves(name, slope)) == -np.sign(slope))


@pytest.mark.parametrize('slope', [-3.0, 3.0])
@pytest.mark.parametrize('name', STUCK)
def test_other_estimators_stand_still_somewhere(name, slope):
  signs = np.sign(_moves(name, slope))
  assert np.any(signs == 0)
  assert np.all(signs[FORMULAS[name](GRID) > 0] == -np.sign(slope))


@pytest.mark.parametrize('slope', [-3.0, 3.0])
@pytest.mark.parametrize('name', FORMULAS)
def test_no_gradient_no_move(name, slope):
  del slope
  assert not np.any(_moves(name, 0.0))


def _regrowth_steps(name):
  """Steps of SGD from m = -1.5, dJ/dS = -1, η = 1e-3, in float64."""
  most = 20_000
  with jax.enable_x64(True):
    derivative = ste.get_estimator(name)

    def body(carry):
      m, steps = carry
      return m + 1e-3 * derivative(m), steps + 1

    start = (jnp.float64(-1.5), jnp.int64(0))
    m, steps = jax.lax.while_loop(
      lambda carry: (carry[0] <= 0) & (carry[1] < most), body, start
    )
    assert m.dtype == jnp.float64
    return int(steps) if m > 0 else None


@pytest.mark.parametrize(
  ('name', 'steps'),
  [
    ('identity', 1501),
    ('leaky_relu', 15_001),
    ('softplus', 4983),
    ('sigmoid', 7259),
    ('tanh', 3256),
    ('relu', None),
    ('clipped_identity', None),
    ('polynomial', None),
  ],
)
def test_regrowth(name, steps):
  assert _regrowth_steps(name) == steps


@pytest.mark.parametrize(
  ('name', 'best', 'share'),
  [
    ('identity', 0.3, 0.3),
    ('identity', 0.7, 0.7),
    ('leaky_relu', 0.3, 0.03 / 0.73),
    ('leaky_relu', 0.7, 0.07 / 0.37),
  ],
)
def test_share_of_time_open_where_the_sides_disagree(name, best, share):
  gradient = jax.grad(lambda m: (ste.unit_step(m, name) - best) ** 2 / 2)

  @jax.jit
  def run(m):
    def step(m, _):
      return m - 1e-3 * gradient(m), ste.unit_step(m)

    return jax.lax.scan(step, m, None, length=20_000)[1].mean()

  assert abs(run(jnp.float32(0.0005)) - share) < 5e-4


@pytest.mark.parametrize('name', [*POSITIVE, 'sigmoid', 'tanh'])
@pytest.mark.parametrize('start', [-0.3, 0.3])
@pytest.mark.parametrize('best', [-0.5, 1.5])
def test_convex_losses_end_on_the_right_side(name, start, best):
  # ½(h - b)²: for b = -0.5 closed is better, for b = 1.5 open.
  gradient = jax.grad(lambda m: (ste.unit_step(m, name) - best) ** 2 / 2)
  m = jax.lax.fori_loop(
    0, 2000, lambda _, m: m - 0.01 * gradient(m), jnp.float32(start)
  )
  assert (m > 0) == (best > 0.5)


def test_jit_vmap_and_scan_agree_with_the_plain_call():
  m = jnp.array([[-1.0, 0.0], [0.5, 2.0]])
  gradient = jax.grad(lambda m: (ste.unit_step(m, 'softplus') * m).sum())
  np.testing.assert_array_equal(
    jax.jit(ste.unit_step, static_argnums=1)(m, 'softplus'), ste.unit_step(m)
  )
  np.testing.assert_allclose(jax.jit(gradient)(m), gradient(m), rtol=1e-6)
  np.testing.assert_allclose(jax.vmap(gradient)(m), gradient(m), rtol=1e-6)


def test_a_callable_estimator():
  slope = functools.partial(ste.leaky_relu, slope=0.5)
  m = jnp.array([-1.0, 0.0, 1.0])
  gradient = jax.grad(lambda m: ste.unit_step(m, slope).sum())(m)
  assert gradient.tolist() == [0.5, 0.5, 1.0]
  gradient = jax.grad(lambda m: ste.unit_step(m, jnp.square).sum())(m)
  assert gradient.tolist() == [1.0, 0.0, 1.0]


def test_forward_mode_is_refused():
  with pytest.raises(TypeError, match='forward-mode'):
    jax.jvp(ste.unit_step, (1.0,), (1.0,))


@pytest.mark.parametrize('estimator', ['sigmoidal', '', 3, None])
def test_unknown_estimators(estimator):
  with pytest.raises(ValueError, match=r'estimator must be one of identity'):
    ste.unit_step(1.0, estimator)


@pytest.mark.parametrize('m', [1, np.ones(2, np.int32), True, 1j])
def test_mask_params_must_be_floating(m):
  with pytest.raises(ValueError, match='mask_params must be floating point'):
    ste.unit_step(m)
