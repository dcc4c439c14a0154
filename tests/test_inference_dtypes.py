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
"""Inputs, sums and outputs of networks outside JAX have the dtypes of JAX."""

import engine_checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import inference
from scl_jax.inference import network as network_lib
from scl_jax.inference import program as program_lib

pytest.importorskip('numba')


@pytest.fixture(autouse=True)
def sparse_and_in_parts(monkeypatch):
  engine_checks.sparse_and_in_parts(monkeypatch)


def test_several_inputs_of_several_dtypes(monkeypatch):
  fn = lambda p, inputs, scale: (inputs['a'] @ p * scale, inputs['b'] + 1)
  inputs = {'a': np.eye(4, dtype=np.float32), 'b': np.arange(3)}
  for is_engine in (True, False):
    clock = engine_checks.Clock(last=is_engine)
    monkeypatch.setattr(network_lib, 'timing', clock)
    network = inference.compile(fn, jnp.ones((4, 2)), None, inputs, 2.0)
    (plan,) = network.plans.values()
    assert (plan.way == 'engine') == is_engine
    product, integers = network({**inputs, 'a': np.eye(4)}, 3)
    np.testing.assert_array_equal(product, np.full((4, 2), 3.0))
    assert product.dtype == np.float32
    np.testing.assert_array_equal(integers, [1, 2, 3])


# What JAX takes for another program is not cut to the dtype compiled for.
@pytest.mark.parametrize(
  ('of', 'given'),
  [
    ('uint8', np.float32(0.5)),
    ('uint8', np.int64(300)),
    ('uint8', np.int8(-1)),
    ('int32', 1.9),
    ('float32', 1j),
    ('float32', 'a'),
    ('float32', None),
  ],
)
def test_inputs_of_dtypes_that_do_not_hold_their_values(of, given):
  x = np.zeros(6, of)
  network = inference.compile(lambda p, x: x + p, jnp.ones(6), None, x)
  wrong = np.full(6, given)
  with pytest.raises(ValueError, match=f"'0' must hold {of}, .*{wrong.dtype}"):
    network(wrong)


@pytest.mark.parametrize(
  ('of', 'given'),
  [('int32', np.int64), ('int32', np.uint8), ('float32', np.float64)]
  + [('float32', d) for d in (np.int64, np.float16, bool, jnp.bfloat16)],
)
def test_inputs_of_dtypes_whose_values_fit(of, given):
  x = np.zeros(6, of)
  network = inference.compile(lambda p, x: x + p, jnp.ones(6), None, x)
  np.testing.assert_array_equal(network(np.ones(6, given)), np.full(6, 2.0))


@pytest.mark.parametrize('is_constant', [True, False])
@pytest.mark.parametrize(
  ('of', 'sums'),
  [
    ('int8', 'int32'),
    ('int8', 'int8'),
    ('float16', 'float32'),
    ('float16', 'float16'),
  ],
)
def test_sums_are_of_the_preferred_dtype(of, sums, is_constant):
  """The examples are 0, so that only the sums tell."""
  size = 100 if sums in ('int32', 'float32') else 5
  x, y = np.random.default_rng(0).normal(size=(2, 8, 64)) * size
  x, y = (np.clip(array, -127, 127).astype(of) for array in (x, y))

  def fn(params, x, *other):
    return jnp.dot(x, (*other, params)[0].T, preferred_element_type=sums)

  params, inputs = jnp.asarray(y), [x] if is_constant else [x, y]
  network = inference.compile(fn, params, None, *map(np.zeros_like, inputs))
  (plan,) = network.plans.values()
  assert plan.way == 'engine'
  wanted = np.asarray(fn(params, *inputs))
  assert network(*inputs).dtype == wanted.dtype
  share = 1e-5 if sums == 'float32' else 2e-3 if sums == 'float16' else 0
  np.testing.assert_allclose(
    network(*inputs), wanted, rtol=0, atol=share * abs(wanted).max()
  )


def test_short_dtypes_round(monkeypatch):
  """Mixed precision: another order of summation is another bfloat16."""
  monkeypatch.setattr(program_lib, 'timing', engine_checks.Clock(last=False))
  rng = np.random.default_rng(0)
  kernels = [jnp.asarray(rng.normal(size=s)) for s in ((512, 64), (64, 4))]

  def fn(params, x):
    first, second = (kernel.astype(jnp.bfloat16) for kernel in params)
    hidden = jax.nn.softmax(x.astype(jnp.bfloat16) @ first / 32)
    return (hidden**3 @ second).astype(jnp.float32)

  x = rng.normal(size=(64, 512)).astype(np.float32)
  network = inference.compile(fn, kernels, None, x)
  (plan,) = network.plans.values()
  assert plan.way == 'engine'
  wanted = np.asarray(fn(kernels, x))
  atol = 4 * float(jnp.finfo(jnp.bfloat16).eps) * np.abs(wanted).max()
  np.testing.assert_allclose(network(x), wanted, rtol=0, atol=atol)
