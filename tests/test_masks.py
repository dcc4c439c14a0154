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
"""Tests of masks.py."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import masks as masks_lib
from scl_jax import ste

pytestmark = pytest.mark.usefixtures('strict')

# (shape of the mask variables, shape of the weight)
SHAPES = [
  ((6,), (6,)),
  ((3,), (6,)),
  ((2,), (5,)),
  ((3,), (7,)),
  ((1,), (7,)),
  ((1, 4), (3, 4)),
  ((3, 1), (3, 4)),
  ((1, 1), (3, 4)),
  ((2, 3), (4, 7)),
  ((2, 4), (5, 8)),
  ((1, 1, 2, 5), (3, 3, 4, 5)),
  ((0, 1), (0, 3)),
]


def _runs(small, large):
  return [-(-d // max(n, 1)) for n, d in zip(small, large, strict=True)]


def _expand(values, shape):
  """By brute force: entry i of an axis belongs to variable i // run."""
  runs = _runs(values.shape, shape)
  out = np.zeros(shape, values.dtype)
  for index in np.ndindex(shape):
    owner = tuple(i // r for i, r in zip(index, runs, strict=True))
    out[index] = values[owner]
  return out


def _contract(values, shape):
  runs = _runs(shape, values.shape)
  out = np.zeros(shape, values.dtype)
  for index in np.ndindex(values.shape):
    owner = tuple(i // r for i, r in zip(index, runs, strict=True))
    out[owner] += values[index]
  return out


def _integers(shape, seed=0):
  # Integers, so that float32 sums are exact in any order.
  rng = np.random.default_rng(seed)
  return rng.integers(-9, 10, size=shape).astype(np.float32)


# init_mask_params


def _weights():
  return {
    'conv': {'kernel': jnp.ones((3, 3, 4, 8), jnp.bfloat16)},
    'attention': {'query': {'kernel': jnp.ones((8, 2, 4))}},
    'head': {'weight': jnp.ones((5, 8)), 'bias': jnp.ones(5)},
    'step': jnp.zeros((2, 2), jnp.int32),
    'none': None,
  }


@pytest.mark.parametrize(
  ('granularity', 'conv', 'query', 'head'),
  [
    ('connection', (3, 3, 4, 8), (8, 2, 4), (5, 8)),
    ('feature', (1, 1, 1, 8), (1, 2, 4), (5, 1)),
    ((4,), (3, 3, 4, 2), (8, 2, 1), (5, 2)),
    ((2, 3), (3, 3, 2, 3), (8, 1, 2), (3, 3)),
    ([4, 4], (3, 3, 1, 2), (8, 1, 1), (2, 2)),
    ((100, 100), (3, 3, 1, 1), (8, 1, 1), (1, 1)),
  ],
)
def test_shapes(granularity, conv, query, head):
  m = masks_lib.init_mask_params(
    _weights(), granularity=granularity, init_value=-0.25
  )
  assert jax.tree.map(jnp.shape, m) == {
    'conv': {'kernel': conv},
    'attention': {'query': {'kernel': query}},
    'head': {'weight': head, 'bias': None},
    'step': None,
    'none': None,
  }
  for leaf in jax.tree.leaves(m):
    assert leaf.dtype == jnp.float32
    assert jnp.all(leaf == -0.25)
  # Whatever the shape, it fits its weight.
  params = masks_lib.effective_params(_weights(), m)
  assert jax.eval_shape(lambda: params) == jax.eval_shape(_weights)


@hypothesis.given(size=st.integers(1, 60), block=st.integers(1, 70))
def test_blocks_that_do_not_divide_are_nearly_equal(size, block):
  weights = {'w': np.zeros((1, size), np.float32)}
  spec = jax.eval_shape(
    lambda: masks_lib.init_mask_params(weights, granularity=(block,))
  )['w']
  count = spec.shape[1]
  assert count == -(-size // block)
  sizes = masks_lib.variable_sizes(spec.shape, (1, size)).ravel()
  assert sizes.sum() * (count // len(sizes)) == size
  assert max(sizes) <= block


def test_feature_axes_and_prunable_are_passed_on():
  m = masks_lib.init_mask_params(
    _weights(),
    prunable='.*/kernel',
    granularity='feature',
    feature_axes={'conv/.*': (2,)},
  )
  assert m['conv']['kernel'].shape == (1, 1, 4, 1)
  assert m['attention']['query']['kernel'].shape == (1, 2, 4)
  assert m['head'] == {'weight': None, 'bias': None}


def test_shapes_are_enough():
  spec = jax.eval_shape(masks_lib.init_mask_params, _weights())
  assert spec['head']['weight'].shape == (5, 8)


def test_mask_params_lie_where_the_weights_lie(mesh):
  spec = jax.sharding.PartitionSpec(None, 'd')
  sharding = jax.sharding.NamedSharding(mesh, spec)
  weights = {'kernel': jax.device_put(jnp.ones((3, 4)), sharding)}
  m = masks_lib.init_mask_params(weights)['kernel']
  assert m.sharding.is_equivalent_to(sharding, 2)
  assert len(m.addressable_shards) == 2
  assert m.addressable_shards[0].data.shape == (3, 2)


@pytest.mark.parametrize(
  'granularity', ['filter', '', (), (0, 4), (-1,), (2.0, 2), 4, None]
)
def test_unknown_granularity(granularity):
  with pytest.raises(ValueError, match="granularity must be 'connection'"):
    masks_lib.init_mask_params(_weights(), granularity=granularity)


def test_a_block_with_too_many_axes():
  with pytest.raises(ValueError, match=r"granularity.*more axes than 'w'"):
    masks_lib.init_mask_params({'w': jnp.ones((4, 4))}, granularity=(2, 2, 2))


@pytest.mark.parametrize('init_value', [float('nan'), float('inf')])
def test_bad_init_value(init_value):
  with pytest.raises(ValueError, match='init_value must be finite'):
    masks_lib.init_mask_params(_weights(), init_value=init_value)


def test_an_empty_selection():
  with pytest.raises(ValueError, match='prunable selects no leaf'):
    masks_lib.init_mask_params({'bias': jnp.ones(3)})


# expand, contract, variable_sizes


@pytest.mark.parametrize(('small', 'large'), SHAPES)
def test_expand_against_brute_force(small, large):
  values = _integers(small)
  expanded = masks_lib.expand(jnp.asarray(values), large)
  np.testing.assert_array_equal(expanded, _expand(values, large))


@pytest.mark.parametrize(('small', 'large'), SHAPES)
def test_contract_against_brute_force(small, large):
  values = _integers(large)
  summed = masks_lib.contract(jnp.asarray(values), small)
  np.testing.assert_array_equal(summed, _contract(values, small))


@pytest.mark.parametrize(('small', 'large'), SHAPES)
def test_variable_sizes_against_brute_force(small, large):
  sizes = masks_lib.variable_sizes(small, large)
  assert sizes.dtype == np.int32
  np.testing.assert_array_equal(
    np.broadcast_to(sizes, small), _contract(np.ones(large, np.int32), small)
  )


@hypothesis.given(shapes=st.sampled_from(SHAPES), seed=st.integers(0, 2**16))
def test_contract_is_the_transpose_of_expand(shapes, seed):
  small, large = shapes
  v, u = _integers(small, seed), _integers(large, seed + 1)
  left = np.vdot(masks_lib.expand(jnp.asarray(v), large), u)
  right = np.vdot(v, masks_lib.contract(jnp.asarray(u), small))
  assert left == right


@pytest.mark.parametrize(
  ('small', 'large'), [((2, 3), (4, 7)), ((1, 4), (3, 4))]
)
def test_contract_is_the_gradient_of_expand(small, large):
  u = jnp.asarray(_integers(large))
  gradient = jax.jit(
    jax.grad(lambda v: jnp.vdot(masks_lib.expand(v, large), u))
  )(jnp.zeros(small))
  np.testing.assert_array_equal(gradient, masks_lib.contract(u, small))


@pytest.mark.parametrize(
  ('small', 'large'),
  [
    ((3,), (4,)),
    ((5,), (4,)),
    ((0,), (4,)),
    ((4,), (3, 4)),
    ((3, 4), (4,)),
    ((), (4,)),
    ((2, 3), (4, 4)),
  ],
)
def test_shapes_that_do_not_fit(small, large):
  with pytest.raises(ValueError, match='do not fit the weight'):
    masks_lib.expand(jnp.zeros(small), large)
  with pytest.raises(ValueError, match='do not fit the weight'):
    masks_lib.contract(jnp.zeros(large), small)


def test_on_a_mesh(mesh):
  spec = jax.sharding.PartitionSpec('d', None)
  sharding = jax.sharding.NamedSharding(mesh, spec)
  values = _integers((4, 6))
  weights = {'kernel': jax.device_put(jnp.asarray(values), sharding)}
  for shape in [(4, 6), (1, 6), (4, 1), (1, 1), (4, 3)]:
    mask = (_integers(shape, 1) > 0).astype(np.float32)
    params = masks_lib.apply_masks(weights, {'kernel': jnp.asarray(mask)})
    expected = values * _expand(mask, (4, 6))
    np.testing.assert_array_equal(params['kernel'], expected)
    assert params['kernel'].sharding.is_equivalent_to(sharding, 2)
  for shape in [(1, 6), (4, 1), (1, 1)]:
    summed = masks_lib.contract(weights['kernel'], shape)
    np.testing.assert_array_equal(summed, _contract(values, shape))


# apply_masks, effective_params


@pytest.mark.parametrize('mask_dtype', [jnp.float32, jnp.bool_])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_apply_masks(dtype, mask_dtype):
  w, mask = _integers((4, 3)), _integers((4, 3), 1) > 0
  params = {
    'w': jnp.asarray(w, dtype),
    'n': None,
    's': [3.0, jnp.arange(3)],
    'feature': jnp.asarray(w, dtype),
  }
  masks = {
    'w': jnp.asarray(mask, mask_dtype),
    'n': None,
    's': [None, None],
    'feature': jnp.array([[1, 0, 1]], mask_dtype),
  }
  out = masks_lib.apply_masks(params, masks)
  assert out['w'].dtype == dtype
  np.testing.assert_array_equal(out['w'].astype(jnp.float32), w * mask)
  np.testing.assert_array_equal(
    out['feature'].astype(jnp.float32), w * np.array([1, 0, 1])
  )
  assert out['n'] is None
  assert out['s'][0] == 3.0
  assert out['s'][1] is params['s'][1]


@pytest.mark.parametrize(
  'masks',
  [
    {'w': jnp.ones(2), 'c': jnp.ones(2)},
    {'w': {'a': jnp.ones(2)}, 'b': None},
    [jnp.ones(2), None],
    jnp.ones(2),
  ],
  ids=str,
)
def test_trees_that_do_not_fit(masks):
  params = {'w': jnp.ones(2), 'b': jnp.ones(2)}
  with pytest.raises(ValueError, match='The trees do not fit'):
    masks_lib.apply_masks(params, masks)
  with pytest.raises(ValueError, match='The trees do not fit'):
    masks_lib.effective_params(params, masks)


@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_keep_live_drops_what_is_not_finite(value):
  mask = jnp.array([[1.0, 0.0]])
  w = jnp.array([[2.0, value], [-3.0, 4.0]])
  loss = lambda w: masks_lib.keep_live({'w': w, 'b': w}, {'w': mask})['w'].sum()
  out = masks_lib.keep_live({'w': w}, {'w': mask})['w']
  np.testing.assert_array_equal(out, [[2, 0], [-3, 0]])
  np.testing.assert_array_equal(jax.grad(loss)(w), [[1, 0], [1, 0]])


def test_masks_fit_by_paths():
  params = {'a': [jnp.ones(2), jnp.ones(2)], 'b': jnp.ones(2)}
  masks = {'a': {'1': jnp.array([1.0, 0.0])}}  # as from a checkpoint
  out = masks_lib.apply_masks(params, masks)
  assert jax.tree.structure(out) == jax.tree.structure(params)
  assert [leaf.tolist() for leaf in jax.tree.leaves(out)] == [
    [1, 1],
    [1, 0],
    [1, 1],
  ]


def test_a_mask_of_another_shape_is_named():
  params = {'layer': {'w': jnp.ones((3, 4))}}
  message = r"shape \(4, 4\) do not fit the weight 'layer/w' of shape \(3, 4\)"
  with pytest.raises(ValueError, match=message):
    masks_lib.apply_masks(params, {'layer': {'w': jnp.ones((4, 4))}})


def test_effective_params_are_exact_zeros_and_weights():
  weights = {'w': jnp.asarray([3.0, -2.0, jnp.inf, 1e-30]), 'b': 1.0}
  m = {'w': jnp.asarray([0.1, 0.0, 0.2, -0.1]), 'b': None}
  params = masks_lib.effective_params(weights, m)
  assert params['w'].tolist() == [3.0, 0.0, float('inf'), 0.0]
  assert params['b'] == 1.0


def test_effective_params_check_the_estimator():
  with pytest.raises(ValueError, match='estimator must be one of'):
    masks_lib.effective_params({'b': 1.0}, {'b': None}, estimator='step')


@pytest.mark.parametrize('shape', [(6, 4), (1, 4), (6, 1), (2, 2), (3, 4)])
@pytest.mark.parametrize('name', ['identity', 'softplus', 'leaky_relu'])
def test_gradients_against_numpy(name, shape):
  """Of ½|x (w s) + b - y|², for one variable a connection or a block."""
  rng = np.random.default_rng(0)
  w = rng.normal(size=(6, 4)).astype(np.float32)
  m = (0.3 * rng.normal(size=shape)).astype(np.float32)
  x = rng.normal(size=(8, 6)).astype(np.float32)
  y = rng.normal(size=(8, 4)).astype(np.float32)

  @jax.jit
  def gradients(weights, mask_params):
    def loss(weights, mask_params):
      params = masks_lib.effective_params(weights, mask_params, estimator=name)
      return 0.5 * jnp.sum((x @ params['w'] + params['b'] - y) ** 2)

    return jax.grad(loss, (0, 1))(weights, mask_params)

  weights = {'w': jnp.asarray(w), 'b': jnp.zeros((1, 4))}
  dw, dm = gradients(weights, {'w': jnp.asarray(m), 'b': None})

  step = _expand((m > 0).astype(np.float64), w.shape)
  g = x.T @ (x @ (w * step) - y)
  slope = np.asarray(ste.ESTIMATORS[name](jnp.asarray(m)), np.float64)
  np.testing.assert_allclose(dw['w'], g * step, rtol=1e-4, atol=1e-5)
  expected = _contract(g * w, shape) * slope
  np.testing.assert_allclose(dm['w'], expected, rtol=1e-4, atol=1e-4)
  assert dm['b'] is None
