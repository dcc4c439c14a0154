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
"""Tests of thresholding.py."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import thresholding

pytestmark = pytest.mark.usefixtures('strict')

_keep = jax.jit(thresholding.keep_highest)
_keep_paying = jax.jit(
  lambda scores, budget, costs: thresholding.keep_highest(
    scores, budget, costs=costs
  )
)
_SHAPES = [(3, 4), (7,), (2, 1, 3)]
_SIZE = 12 + 7 + 6
_ANY = st.floats(allow_nan=False, allow_subnormal=False, width=32)
_TIES = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1.0, 2.0, np.inf])


def _tree(values):
  values = np.asarray(values, np.float32)
  leaves = np.split(values, np.cumsum([np.prod(s) for s in _SHAPES])[:-1])
  a, b, c = (v.reshape(s) for v, s in zip(leaves, _SHAPES, strict=True))
  return {'a': a, 'b': [b, None], 'c': {'d': c, 'e': None}}


def _flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _hash(x):
  """Wellons's lowbias32 (https://nullprogram.com/blog/2018/07/31/), signed."""
  x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
  x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
  x ^= x >> 16
  return x - 2**32 if x >= 2**31 else x


def _keep_in_numpy(values, budget, prices=1):
  """The highest first, equals by a hash of the place, until one is too dear."""
  values = np.asarray(values, np.float64) + 0.0
  spent = np.broadcast_to(prices, values.shape)
  order = np.lexsort([[_hash(i) for i in range(values.size)], -values])
  paid = order[np.cumsum(spent[order]) <= budget]
  mask = np.zeros(values.size, np.float32)
  mask[paid] = 1
  return mask


@hypothesis.given(
  values=st.one_of(
    st.lists(_ANY, min_size=_SIZE, max_size=_SIZE),
    st.lists(_TIES, min_size=_SIZE, max_size=_SIZE),
  ),
  count=st.integers(0, _SIZE),
)
@hypothesis.settings(max_examples=100)
def test_against_a_sort(values, count):
  masks = _keep(_tree(values), count)
  assert jax.tree.structure(masks) == jax.tree.structure(_tree(values))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(masks))
  np.testing.assert_array_equal(_flat(masks), _keep_in_numpy(values, count))
  assert _keep._cache_size() == 1


@pytest.mark.parametrize('value', [0.0, -0.0, np.inf, -np.inf, 1.0])
@pytest.mark.parametrize('count', [0, 1, 12, 13, 24, 25])
def test_all_equal(value, count):
  masks = _keep(_tree([value] * _SIZE), count)
  expected = _keep_in_numpy([value] * _SIZE, count)
  np.testing.assert_array_equal(_flat(masks), expected)


def test_no_leaf_row_or_column_of_equals_is_preferred():
  scores = {'a': jnp.zeros((50, 89)), 'b': jnp.zeros((89, 50))}
  masks = jax.tree.map(np.asarray, _keep(scores, 4450))
  assert sum(m.sum() for m in masks.values()) == 4450
  for mask in masks.values():
    assert 0.45 < mask.mean() < 0.55
    for axis in (0, 1):
      assert np.all(np.abs(mask.mean(axis) - 0.5) < 0.3)


@pytest.mark.parametrize(
  ('count', 'kept'), [(-3, 0), (99, 25), (2**31 - 1, 25)]
)
def test_counts_out_of_range_keep_none_or_all(count, kept):
  rng = np.random.default_rng(0)
  assert _flat(_keep(_tree(rng.normal(size=_SIZE)), count)).sum() == kept


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision(dtype):
  values = np.random.default_rng(0).normal(size=40)
  scores = {'w': jnp.asarray(values, dtype)}
  for count in [0, 7, 40]:
    expected = _keep_in_numpy(np.asarray(scores['w'], np.float64), count)
    np.testing.assert_array_equal(_keep(scores, count)['w'], expected)


def test_without_jit_under_vmap_and_on_a_scalar():
  values = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
  counts = jnp.arange(4) * 3
  masks = jax.vmap(thresholding.keep_highest)(jnp.asarray(values), counts)
  for row, count in enumerate(counts):
    expected = _keep_in_numpy(values[row], int(count))
    np.testing.assert_array_equal(masks[row], expected)
  assert thresholding.keep_highest(jnp.float32(2), 1) == 1
  assert thresholding.keep_highest(jnp.float32(2), 0) == 0


@hypothesis.given(
  values=st.lists(_ANY, min_size=_SIZE, max_size=_SIZE, unique=True),
  prices=st.lists(st.integers(1, 9), min_size=_SIZE, max_size=_SIZE),
  budget=st.integers(0, 9 * _SIZE),
)
def test_a_cost_for_each_entry(values, prices, budget):
  values = np.asarray(values) + 0.0
  hypothesis.assume(len(np.unique(values)) == _SIZE)  # 0.0 and -0.0
  costs = jax.tree.map(lambda c: c.astype(np.int32), _tree(prices))
  masks = _keep_paying(_tree(values), budget, costs)
  expected = _keep_in_numpy(values, budget, prices)
  np.testing.assert_array_equal(_flat(masks), expected)


@hypothesis.given(
  values=st.lists(_TIES, min_size=_SIZE, max_size=_SIZE),
  prices=st.tuples(*[st.integers(1, 5)] * 3),
  budget=st.integers(0, 5 * _SIZE),
)
def test_a_cost_for_each_leaf_with_ties(values, prices, budget):
  a, b, c = (np.int32(price) for price in prices)
  costs = {'a': a, 'b': [b, None], 'c': {'d': c, 'e': None}}
  masks = _keep_paying(_tree(values), budget, costs)
  expected = _keep_in_numpy(values, budget, np.repeat(prices, [12, 7, 6]))
  np.testing.assert_array_equal(_flat(masks), expected)


def test_a_budget_for_each_leaf():
  values = np.random.default_rng(0).normal(size=_SIZE)
  counts = {'a': 5, 'b': [0, None], 'c': {'d': 6, 'e': None}}
  masks = _keep(_tree(values), counts)
  for scores, count, mask in zip(
    *map(jax.tree.leaves, (_tree(values), counts, masks)), strict=True
  ):
    expected = _keep_in_numpy(np.ravel(scores), count)
    np.testing.assert_array_equal(np.ravel(mask), expected)


def test_no_scores():
  with pytest.raises(ValueError, match='scores holds no array'):
    thresholding.keep_highest({'w': None}, 1)


def test_sharded_scores_stay_where_they_are(mesh):
  rng = np.random.default_rng(0)
  values = {
    'a': rng.normal(size=(8, 6)).astype(np.float32),
    'b': rng.integers(0, 3, size=(4, 10)).astype(np.float32),
  }
  shardings = {
    'a': jax.sharding.NamedSharding(mesh, jax.P('d', None)),
    'b': jax.sharding.NamedSharding(mesh, jax.P(None, 'd')),
  }
  scores = jax.device_put(values, shardings)
  keep = jax.jit(thresholding.keep_highest)
  text = keep.lower(scores, 20).compile().as_text()
  assert 'all-gather' not in text
  assert 'all-to-all' not in text
  assert 'all-reduce' in text  # of the counts
  for count in [0, 20, 50, 88]:
    masks = keep(scores, count)
    np.testing.assert_array_equal(
      _flat(masks), _keep_in_numpy(_flat(values), count)
    )
    for name, sharding in shardings.items():
      assert masks[name].sharding.is_equivalent_to(sharding, 2)


def test_without_jit_a_shape_is_traced_once(monkeypatch):
  traces, total = [], thresholding.wide.total
  monkeypatch.setattr(
    thresholding.wide, 'total', lambda x: traces.append(None) or total(x)
  )
  counts = []
  for seed in range(3):
    scores = jax.random.uniform(jax.random.key(seed), (3, 19))
    assert thresholding.keep_highest(scores, 5 + seed).sum() == 5 + seed
    counts.append(len(traces))
  assert counts[0] == counts[1] == counts[2] > 0


@pytest.mark.parametrize('by_leaf', [False, True])
def test_many_leaves_compile_as_few_do(by_leaf):
  """XLA took minutes for 100: of loops, and of sums from leaf to leaf."""
  loops, depths = [], []
  for count in (3, 12):
    scores = {str(i): jnp.arange(3.0) for i in range(count)}
    budget = jax.tree.map(lambda _: 2, scores) if by_leaf else 2 * count
    closed = jax.make_jaxpr(thresholding.keep_highest)(scores, budget)
    loops.append(_number_of_loops(closed.jaxpr))
    depths.append(_depth(closed.jaxpr))
    masks = thresholding.keep_highest(scores, budget)
    assert sum(int(mask.sum()) for mask in masks.values()) == 2 * count
  assert loops == [2, 2]
  assert depths[0] == depths[1]


def _inner(eqn):
  """What an equation calls."""
  for value in jax.tree.leaves(list(eqn.params.values())):
    jaxpr = getattr(value, 'jaxpr', value)
    if hasattr(jaxpr, 'eqns'):
      yield jaxpr


def _number_of_loops(jaxpr):
  return sum(
    (eqn.primitive.name == 'while')
    + sum(_number_of_loops(inner) for inner in _inner(eqn))
    for eqn in jaxpr.eqns
  )


def _depth(jaxpr):
  """The longest chain of equations of which each needs the one before."""
  depths = {}
  for eqn in jaxpr.eqns:
    inputs = [v for v in eqn.invars if not hasattr(v, 'val')]  # no literals
    before = max((depths.get(v, 0) for v in inputs), default=0)
    own = 1 + max((_depth(inner) for inner in _inner(eqn)), default=0)
    depths.update(dict.fromkeys(eqn.outvars, before + own))
  return max(depths.values(), default=0)
