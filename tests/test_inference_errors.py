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
"""What sparse inference refuses, and says of it."""

import collections
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import compaction
from scl_jax import inference
from scl_jax.inference import network as network_lib

pytest.importorskip('numba')

W = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
UNSUPPORTED = {
  r"'top_k'\. Run": lambda p, x: lax.top_k(x @ p, 2),
  'sort': lambda p, x: jnp.sort(x @ p),
  'gather.* along several axes': lambda p, x: (x @ p)[[1, 2], [3, 4]],
  'while': lambda p, x: lax.while_loop(lambda h: h.sum() > 0, jnp.sin, x @ p),
  'conv_general_dilated.* along 3 axes': lambda p, x: lax.conv(
    x[None, None, None], p[None, None, None], (1, 1, 1), 'SAME'
  ),
  'conv_general_dilated.* depends on inputs': lambda p, x: lax.conv(
    p[None, None], x[None, None], (1, 1), 'SAME'
  ),
  'conv_general_dilated.* of these dtypes': lambda p, x: lax.conv(
    *(a.astype(jnp.bfloat16)[None, None] for a in (x, p)), (1, 1), 'SAME'
  ),
  'random_bits.* on random keys': lambda p, x: (
    x @ p + jax.random.normal(x[0, :2].astype(jnp.uint32))
  ),
}


@pytest.mark.parametrize('name', UNSUPPORTED)
def test_unsupported_operations_are_named(name):
  x = np.ones((6, 6), np.float32)
  with pytest.raises(inference.UnsupportedError, match=name):
    inference.compile(UNSUPPORTED[name], jnp.asarray(W), None, x)


def test_errors():
  fn, x = lambda p, x: x @ p, np.ones((2, 6), np.float32)
  network = inference.compile(fn, jnp.asarray(W), None, x)
  with pytest.raises(ValueError, match=r'\(\(2, 6\),\); got \(\(3, 6\),\)'):
    network(np.ones((3, 6), np.float32))
  with pytest.raises(ValueError, match='must have a batch as axis 0'):
    inference.compile(
      lambda p, x: x * p, jnp.ones(3), None, 1.0, batch_sizes=[1]
    )
  with pytest.raises(ValueError, match=r'batch as axis 0 .* got shapes \[\]'):
    inference.compile(lambda p: p, jnp.ones(3), None, batch_sizes=[1])
  abstract = jax.ShapeDtypeStruct(x.shape, x.dtype)
  with pytest.raises(ValueError, match=r"arrays, .* '0' is a ShapeDtypeStr"):
    inference.compile(fn, jnp.asarray(W), None, abstract)
  with pytest.raises(ValueError, match='example_inputs must be arrays'):
    compaction.compact(fn, jnp.asarray(W), None, abstract)
  with pytest.raises(ValueError, match=r"numbers, but '1' is key<"):
    inference.compile(
      lambda p, x, key: x @ p, jnp.asarray(W), None, x, jax.random.key(0)
    )


def test_a_function_that_amplifies_rounding():
  rng = np.random.default_rng(0)
  p, x = (rng.normal(size=s).astype(np.float32) for s in ((99, 40), (8, 99)))
  fn = lambda p, x: jnp.sin(1e6 * (x @ p))
  with pytest.raises(ArithmeticError, match=r'than the tolerance 1\.0e-05'):
    inference.compile(fn, jnp.asarray(p), None, x)


def test_inputs_of_other_names():
  """Their arrays lie in another order, so they would change places."""
  x, y = np.ones((2, 6), np.float32), np.zeros((2, 6), np.float32)
  fn = lambda p, both, more: (both['image'] @ p, more[0] + both['mask'])
  network = inference.compile(
    fn, jnp.asarray(W), None, {'image': x, 'mask': y}, [y]
  )
  for other in (
    {'pixels': x, 'mask': y},
    collections.OrderedDict(mask=y, image=x),
  ):
    with pytest.raises(ValueError, match=r"at \['0/image', '0/mask', '1/0'\]"):
      network(other, [y])
  # A tuple for a list is the same.
  out, total = network({'mask': y, 'image': x}, (x,))
  np.testing.assert_array_equal(total, x)
  np.testing.assert_allclose(out, x @ W, rtol=1e-5)


@pytest.mark.parametrize(
  'sizes', [[], [0], [4, -1], [2.0], [True], ['2'], [None], 2, '2'], ids=str
)
def test_batch_sizes_are_checked(sizes):
  arguments = (lambda p, x: x @ p, jnp.asarray(W), None, np.ones((1, 6)))
  with pytest.raises(ValueError, match=r'batch_sizes must be .* >= 1') as error:
    inference.compile(*arguments, batch_sizes=sizes)
  assert f'got {sizes!r}.' in str(error.value)


def test_batch_sizes_of_numpy():
  arguments = (lambda p, x: x @ p, jnp.asarray(W), None, np.ones((1, 6)))
  network = inference.compile(*arguments, batch_sizes=np.array([2, 3]))
  assert list(network.plans) == [((2, 6),), ((3, 6),)]


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
  ('output', 'expected', 'difference'),
  [
    ([1, 5], [1, 4], 0.25),
    ([0.5], [0], 0.5),
    ([], [], 0),
    ([NAN, 5], [1, 1], INF),
    ([1, 5], [NAN, 5], INF),
    ([NAN, 5], [5, NAN], INF),
    ([INF, 5], [5, 5], INF),
    ([5, 5], [-INF, 5], INF),
    ([INF], [-INF], INF),
    ([NAN], [INF], INF),
    ([NAN, INF, -INF, 5], [NAN, INF, -INF, 5], 0),
    ([NAN, INF, -INF, 5], [NAN, INF, -INF, 4], 0.25),
    ([True, False], [True, True], 1),
    ([3 + 4j], [3 + 5j], 1 / abs(3 + 5j)),
    ([[1.0]], [1.0], INF),
  ],
)
def test_differences(output, expected, difference):
  same = np.zeros(2)
  outputs, wanted = ([same, np.array(x), same] for x in (output, expected))
  found = network_lib._difference(outputs, wanted)
  assert found == pytest.approx(difference)


def put(value):
  """Replaces two entries."""
  return lambda y: jnp.where(np.eye(2, 6) > 0, value, y)


@pytest.mark.parametrize(
  ('last', 'spoil', 'difference'),
  [
    (lambda y: y, lambda y: 1.01 * y, '1.0e-02'),
    (lambda y: y, put(NAN), 'inf'),
    (lambda y: y, put(INF), 'inf'),
    (lambda y: jnp.where(y > 0, y, jnp.nan), jnp.nan_to_num, 'inf'),
    (put(NAN), lambda y: 1.01 * y, '1.0e-02'),
  ],
)
def test_a_wrong_compaction_is_found(monkeypatch, last, spoil, difference):
  compact = compaction.compact

  def wrong(fn, *args, **kwargs):
    small = compact(fn, *args, **kwargs)
    return dataclasses.replace(small, fn=lambda p, x: spoil(small.fn(p, x)))

  def fn(p, x):
    return last(x @ p)

  x = np.ones((2, 6), np.float32)
  inference.compile(fn, jnp.asarray(W), None, x)
  monkeypatch.setattr(compaction, 'compact', wrong)
  with pytest.raises(ArithmeticError, match=f'differs .* by {difference}'):
    inference.compile(fn, jnp.asarray(W), None, x)
