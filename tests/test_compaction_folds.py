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
"""What compaction adds to biases, and where it must not; without verification.

Feature 1 of the hidden layer has no incoming connection, so it is a constant,
whose outgoing weights say what is missing where it goes.
"""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax

X = jax.random.normal(jax.random.key(0), (4, 3))


def hidden(p, x):
  return jax.nn.relu(x @ p['w'] + p['b']) @ p['v']


def draw(seed, shape, rows=None):
  """Params with a dead feature; `rows` are its outgoing weights."""
  rng = np.random.default_rng(seed)
  params = {
    'w': rng.normal(size=(3, 4)),
    'b': rng.normal(size=4),
    'v': rng.normal(size=(4, 6)),
    'c': rng.normal(size=shape),
  }
  params['w'][:, 1] = 0
  params['b'][1] = 0.6
  if rows is not None:
    params['v'][1] = rows
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def check(fn, params):
  small = scl_jax.compact(fn, params, None, X, verify=False)
  np.testing.assert_allclose(
    small.fn(small.params, X), fn(params, X), rtol=1e-5, atol=1e-5
  )
  return small.params['w'].shape[1]


# The bias's shape, how it meets [4, 6], and which outputs share an entry of it.
SHARED = {
  'a scalar': ((), lambda y, c: y + c, (1, 6)),
  'one entry': ((1,), lambda y, c: y - c, (1, 6)),
  'over heads': ((2, 1), lambda y, c: y.reshape(-1, 2, 3) + c, (2, 3)),
  'halves': ((2,), lambda y, c: jnp.repeat(c, 3) + y, (2, 3)),
  'over rows': ((6,), lambda y, c: y + c, (6, 1)),
}


@pytest.mark.parametrize('name', SHARED)
@hypothesis.settings(max_examples=8)
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_a_bias_that_several_outputs_share(name, seed):
  """It can take what is missing only where all of them lack the same."""
  shape, add, groups = SHARED[name]
  rows = np.random.default_rng(seed).integers(0, 2, groups[0])
  rows = np.repeat(rows, groups[1])
  rows[seed % 6] = seed % 2  # some lack nothing, as masks leave it
  width = check(lambda p, x: add(hidden(p, x), p['c']), draw(seed, shape, rows))
  fits = all(len(set(group)) == 1 for group in rows.reshape(groups).tolist())
  assert width == (3 if fits else 4)


# What reaches the bias beside the sum, or in another shape.
ELSEWHERE = {
  'a class token': lambda y: jnp.concatenate([X[:1, :1] * jnp.ones(6), y]),
  'a border': lambda y: jnp.pad(y, ((1, 1), (0, 0))),
  'whole numbers': lambda y: y.astype(jnp.int32).astype(jnp.float32),
  'truth values': lambda y: y.astype(bool).astype(jnp.float32),
}


@pytest.mark.parametrize('name', ELSEWHERE)
def test_what_else_gets_the_bias_must_not_change(name):
  fn = lambda p, x: ELSEWHERE[name](hidden(p, x)) + p['c']
  assert check(fn, draw(0, (6,))) == 4


def test_a_bias_that_would_overflow():
  params = draw(0, (6,), [1, 0, 0, 0, 0, 0])
  params['b'] = params['b'].at[1].set(6e4)
  params['c'] = jnp.full(6, 6e4, jnp.float16)
  fn = lambda p, x: jnp.tanh((hidden(p, x) + p['c']) * 1e-4)
  assert check(fn, params) == 4
