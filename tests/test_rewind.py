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
"""Lottery tickets: train, prune, go back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import testing


def train(tx, params, state, steps):
  step = jax.jit(tx.update)
  for _ in range(steps):
    updates, state = step(jax.grad(testing.loss)(params), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def one_shot(step):
  return scl_jax.gradual_magnitude(0.4, begin_step=step, end_step=step)


def test_equals_a_new_run_under_fixed_masks():
  early = testing.make_params()
  tx = scl_jax.sparsify(optax.adam(1e-2), one_shot(4))
  _, state = train(tx, early, tx.init(early), 6)
  params, state = scl_jax.rewind(tx, state, early)
  masks = scl_jax.get_masks(state)
  chex.assert_trees_all_equal(params, scl_jax.apply_masks(early, masks))

  fixed = scl_jax.sparsify(optax.adam(1e-2), scl_jax.static_masks(masks))
  start = scl_jax.apply_masks(early, masks)
  expected, _ = train(fixed, start, fixed.init(start), 5)
  found, after = train(tx, params, state, 5)
  chex.assert_trees_all_close(found, expected, rtol=1e-6)
  chex.assert_trees_all_equal(scl_jax.get_masks(after), masks)


def test_the_rule_goes_on_and_the_optimizer_starts_afresh():
  early = testing.make_params()
  tx = optax.chain(
    optax.clip(1.0), scl_jax.sparsify(optax.adam(1e-2), one_shot(4))
  )
  _, state = train(tx, early, tx.init(early), 6)
  _, state = scl_jax.rewind(tx, state, early)
  inner = scl_jax.get_sparsify_state(state)
  assert int(inner.rule_state.count) == 6
  assert int(optax.tree.get(inner.inner_state, 'count')) == 0
  for leaf in jax.tree.leaves(inner.inner_state):
    assert not np.any(leaf)
  # The weights behind closed masks are the early ones, too.
  chex.assert_trees_all_equal(inner.weights, early)


def test_an_optimizer_that_remembers_params_remembers_the_masked_ones():
  early = testing.make_params()
  remember = optax.GradientTransformation(
    lambda params: params, lambda updates, state, params=None: (updates, state)
  )
  tx = scl_jax.sparsify(optax.chain(remember, optax.sgd(0.1)), one_shot(2))
  _, state = train(tx, early, tx.init(early), 4)
  params, state = scl_jax.rewind(tx, state, early)
  chex.assert_trees_all_equal(state.inner_state[0], params)


def test_errors():
  early = testing.make_params()
  tx = scl_jax.sparsify(optax.sgd(0.1), one_shot(2))
  with pytest.raises(ValueError, match='params'):
    scl_jax.rewind(tx, tx.init(early), {'w': jnp.ones((2, 2))})
  with pytest.raises(ValueError, match='contains 0'):
    scl_jax.rewind(optax.sgd(0.1), optax.sgd(0.1).init(early), early)
  with pytest.raises(TypeError, match='optimizer must be an optax'):
    scl_jax.rewind(None, tx.init(early), early)
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.soft_threshold(0.1))
  with pytest.raises(ValueError, match=r'STRState follow.*static_masks'):
    scl_jax.rewind(tx, tx.init(early), early)


@pytest.mark.parametrize(
  'labels',
  [
    {'first': 'sparse', 'hole': None, 'second': 'dense'},
    {
      'first': {'kernel': 'sparse', 'bias': 'dense'},
      'hole': None,
      'second': {'kernel': 'sparse', 'bias': 'dense'},
    },
  ],
)
def test_within_a_partition(labels, tmp_path):
  early = testing.make_params()
  tx = optax.partition(
    {
      'sparse': scl_jax.sparsify(optax.adam(1e-2), one_shot(2)),
      'dense': optax.sgd(0.1),
    },
    labels,
  )
  _, state = train(tx, early, tx.init(early), 4)
  masks = scl_jax.get_masks(state)
  params, state = scl_jax.rewind(tx, state, early)
  chex.assert_trees_all_equal(params, scl_jax.apply_masks(early, masks))
  pruned = np.asarray(masks['first']['kernel']) == 0
  assert pruned.any()
  np.testing.assert_array_equal(params['first']['kernel'][pruned], 0.0)
  chex.assert_trees_all_equal(params['second']['bias'], early['second']['bias'])
  weights = scl_jax.get_sparsify_state(state).weights
  chex.assert_trees_all_equal(
    weights['first']['kernel'], early['first']['kernel']
  )
  train(tx, params, state, 2)

  # Holes are None, which fits wherever masks go.
  own = scl_jax.get_params(state, one_shot(2))
  for tree in (masks, own):
    kinds = jax.tree.leaves(
      tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    )
    assert not any(isinstance(node, optax.MaskedNode) for node in kinds)
  kept = int(sum(mask.sum() for mask in jax.tree.leaves(masks)))
  assert f'{kept}' in scl_jax.summary(params, masks)
  scl_jax.save(tmp_path / 'sparse', params, masks)
  chex.assert_trees_all_equal(
    scl_jax.load(tmp_path / 'sparse').params,
    {name: layer for name, layer in params.items() if layer is not None},
  )
  fixed = scl_jax.sparsify(optax.sgd(0.1), scl_jax.static_masks(masks))
  chex.assert_trees_all_equal(
    scl_jax.get_masks(fixed.init(params))['first']['kernel'],
    masks['first']['kernel'],
  )
