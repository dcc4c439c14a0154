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
"""Layer densities against the published formula, and exact totals."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax
from scl_jax import distributions

KEY = jax.random.key(0)

# ResNet-like: dense, convolutions, a large embedding-like matrix.
SHAPES = {
  'a': (784, 300),
  'b': (300, 100),
  'c': (100, 10),
  'd': (3, 3, 16, 32),
}


def structs(shapes):
  return {
    name: {'kernel': jax.ShapeDtypeStruct(shape, jnp.float32)}
    for name, shape in shapes.items()
  }


def published(shapes, target):
  """RigL's appendix as its released code has it: one layer dense at a time."""
  dense = set()
  while True:
    divisor, right = 0.0, 0.0
    for name, shape in shapes.items():
      size = np.prod(shape)
      if name in dense:
        right -= size * (1 - target)
      else:
        right += size * target
        divisor += sum(shape) / size * size
    epsilon = right / divisor
    highest = max(
      (sum(s) / np.prod(s), n) for n, s in shapes.items() if n not in dense
    )
    if epsilon * highest[0] <= 1:
      return {
        n: 1.0 if n in dense else epsilon * sum(s) / np.prod(s)
        for n, s in shapes.items()
      }
    dense |= {
      n
      for n, s in shapes.items()
      if n not in dense and sum(s) / np.prod(s) == highest[0]
    }


@pytest.mark.parametrize('target', [0.5, 0.2, 0.1, 0.02, 0.005])
def test_erdos_renyi_is_the_published_formula(target):
  found = scl_jax.layer_densities(structs(SHAPES), target)
  expected = published(SHAPES, target)
  for name, density in expected.items():
    assert found[name]['kernel'] == pytest.approx(density, rel=1e-12)


def test_erdos_renyi_by_hand():
  """ε (4 + 6) / 24 and ε (6 + 2) / 12 with ε = 0.25 · 36 / (10 + 8)."""
  found = scl_jax.layer_densities(structs({'a': (4, 6), 'b': (6, 2)}), 0.25)
  assert found['a']['kernel'] == pytest.approx(0.5 * 10 / 24)
  assert found['b']['kernel'] == pytest.approx(0.5 * 8 / 12)


shapes_strategy = st.lists(
  st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
  min_size=1,
  max_size=5,
)


@hypothesis.given(
  shapes=shapes_strategy,
  target=st.floats(0.001, 1.0),
  allocation=st.sampled_from(distributions.LAYERWISE),
)
@hypothesis.settings(max_examples=200)
def test_totals_are_exact_and_layers_are_near_their_density(
  shapes, target, allocation
):
  tree = structs({f'l{i}': s for i, s in enumerate(shapes)})
  sizes = [int(np.prod(s)) for s in shapes]
  counts = jax.tree.leaves(scl_jax.layer_budgets(tree, target, allocation))
  densities = jax.tree.leaves(scl_jax.layer_densities(tree, target, allocation))
  assert sum(counts) == round(target * sum(sizes))
  raised = 0
  for count, density, size in zip(counts, densities, sizes, strict=True):
    assert 0 <= count <= size
    assert 0 <= density <= 1
    assert count - density * size < 1 + 1e-5
    raised += count == 1 and density * size < 1
  for count, density, size in zip(counts, densities, sizes, strict=True):
    assert density * size - count < 1 + raised + 1e-5
  assert all(counts) or sum(counts) < len(counts)


def test_no_layer_is_left_without():
  tree = {'w1': jnp.ones((100, 10)), 'w2': jnp.ones((10, 2))}
  assert scl_jax.layer_budgets(tree, 0.02, 'uniform') == {'w1': 19, 'w2': 1}
  # Too few for all, and a layer that has no connections at all.
  assert scl_jax.layer_budgets(tree, 0.001, 'uniform') == {'w1': 1, 'w2': 0}
  empty = {**tree, 'w2': jnp.ones((0, 2))}
  assert scl_jax.layer_budgets(empty, 0.02, 'uniform') == {'w1': 20, 'w2': 0}
  rule = scl_jax.random_pruning(0.02, key=KEY, allocation='uniform')
  assert rule.init(tree).masks['w2'].sum() == 1


def test_other_leaves_are_holes():
  tree = {'w': jnp.ones((4, 4)), 'b': jnp.ones(4), 'none': None}
  assert scl_jax.layer_budgets(tree, 0.5) == {'w': 8, 'b': None, 'none': None}
  assert scl_jax.layer_budgets(tree, 0.5, prunable='b')['b'] == 2


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((0.0,), r'target_density must be in \(0, 1\], got 0'),
    ((1.5,), 'target_density must be'),
    ((0.5, 'erk'), "allocation must be one of 'uniform'.*got 'erk'"),
  ],
)
def test_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    scl_jax.layer_budgets({'w': jnp.ones((2, 2))}, *arguments)


@pytest.mark.parametrize(
  'make',
  [
    lambda d: scl_jax.gradual_magnitude(d, end_step=0),
    lambda d: scl_jax.gradual_magnitude(d, end_step=0, allocation='uniform'),
    scl_jax.snip,
    lambda d: scl_jax.random_pruning(d, key=KEY),
    lambda d: scl_jax.random_pruning(d, key=KEY, allocation='global'),
    lambda d: scl_jax.rigl(d, key=KEY, end_step=9),
    lambda d: scl_jax.sparse_evolutionary_training(d, key=KEY, end_step=9),
    lambda d: scl_jax.scl(target_density=d, freeze_step=9),
  ],
)
def test_a_target_that_leaves_nothing_is_an_error_of_every_rule(make):
  weights = {'kernel': jnp.ones((6, 5)), 'bias': jnp.zeros(5)}
  with pytest.raises(ValueError, match='cannot be reached') as info:
    make(1e-3).init(weights)
  assert 'leaves 0 of 30 connections' in str(info.value)
  assert 'a density of 0.03333' in str(info.value)
  make(1 / 30).init(weights)
  # A layer may lose all, and a layer without connections asks for none.
  make(0.1).init({**weights, 'w': jnp.ones((1, 2)), 'v': jnp.ones((0, 3))})


def test_a_traced_density_needs_the_global_allocation():
  leaves = {'w': jnp.ones((4, 5))}
  budget = jax.jit(lambda d: distributions.budgets(leaves, d, 'global'))
  assert budget(0.3) == 6
  with pytest.raises(ValueError, match="allocation='global'"):
    jax.jit(lambda d: distributions.budgets(leaves, d, 'uniform'))(0.3)
