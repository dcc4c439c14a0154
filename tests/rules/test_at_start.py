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
"""The rules that decide once: SNIP, random pruning, given masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

KEY = jax.random.key(3)
PARAMS = {
  'a': {'kernel': jax.random.normal(jax.random.key(0), (8, 6))},
  'b': {'kernel': jax.random.normal(jax.random.key(1), (6, 4)), 'bias': 1.0},
}


def grads(seed):
  key = jax.random.key(seed)
  return jax.tree.map(lambda w: jax.random.normal(key, jnp.shape(w)), PARAMS)


def flat(tree):
  leaves = [x for x in jax.tree.leaves(tree) if np.ndim(x) > 1]
  return np.concatenate([np.ravel(x) for x in leaves])


class TestSnip:
  @pytest.mark.parametrize('batches', [1, 3])
  def test_keeps_the_highest_mean_of_g_w(self, batches):
    rule = scl_jax.snip(0.25, num_batches=batches)
    state, update = rule.init(PARAMS), jax.jit(rule.update)
    for step in range(5):
      state = update(grads(step), state, PARAMS)
      dense = step < batches - 1
      assert flat(state.masks).sum() == (72 if dense else 18)
    mean = np.mean([flat(grads(step)) for step in range(batches)], axis=0)
    scores = np.abs(mean * flat(PARAMS))
    expected = scores >= np.sort(scores)[-18]
    np.testing.assert_array_equal(flat(state.masks), expected)

  def test_density_may_be_traced(self):
    def live(density):
      rule = scl_jax.snip(density)
      state = rule.update(grads(0), rule.init(PARAMS), PARAMS)
      return sum(jnp.sum(m) for m in jax.tree.leaves(state.masks))

    counts = jax.jit(jax.vmap(live))(jnp.array([0.25, 0.5]))
    np.testing.assert_array_equal(counts, [18, 36])

  def test_errors(self):
    with pytest.raises(ValueError, match=r'target_density must be.*got 0'):
      scl_jax.snip(0)
    with pytest.raises(ValueError, match='num_batches must be a whole'):
      scl_jax.snip(0.5, num_batches=0)


class TestRandomPruning:
  @pytest.mark.parametrize('allocation', ['global', 'uniform', 'erdos_renyi'])
  def test_numbers(self, allocation):
    rule = scl_jax.random_pruning(0.25, key=KEY, allocation=allocation)
    masks = rule.init(PARAMS).masks
    assert flat(masks).sum() == 18
    if allocation != 'global':
      counts = scl_jax.layer_budgets(PARAMS, 0.25, allocation)
      assert jax.tree.map(lambda m: int(m.sum()), masks) == counts

  def test_the_key_decides(self):
    draw = lambda key: flat(
      scl_jax.random_pruning(0.25, key=key).init(PARAMS).masks
    )
    np.testing.assert_array_equal(draw(KEY), draw(KEY))
    assert np.any(draw(KEY) != draw(jax.random.key(4)))

  def test_every_connection_is_equally_likely(self):
    def draw(key):
      rule = scl_jax.random_pruning(0.25, key=key, allocation='global')
      return rule.init({'w': jnp.ones((4, 5))}).masks['w']

    share = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 2000)).mean(0)
    # Six standard deviations of a mean of 2000 draws.
    np.testing.assert_allclose(share, 0.25, atol=6 * 0.433 / 2000**0.5)

  def test_the_same_on_one_and_two_devices(self, mesh):
    rule = scl_jax.random_pruning(0.25, key=KEY)
    weights = {'w': jnp.ones((8, 6))}
    sharding = jax.sharding.NamedSharding(mesh, jax.P('d', None))
    sharded = jax.device_put(weights, {'w': sharding})
    masks = rule.init(sharded).masks
    np.testing.assert_array_equal(masks['w'], rule.init(weights).masks['w'])
    assert masks['w'].sharding.is_equivalent_to(sharding, 2)
    with jax.set_mesh(mesh):
      jitted = jax.jit(rule.init)(sharded).masks
    np.testing.assert_array_equal(jitted['w'], masks['w'])


def fine_tune(rule, params, steps=3):
  tx = scl_jax.sparsify(optax.adam(0.1), rule)
  state, step = tx.init(params), jax.jit(tx.update)
  params = scl_jax.apply_masks(params, scl_jax.get_masks(state))
  for seed in range(steps):
    updates, state = step(grads(seed), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


class TestStaticMasks:
  def test_given_masks_are_kept(self):
    masks = {
      'a': {'kernel': jnp.ones((8, 6)).at[2].set(0)},
      'b': {'kernel': None, 'bias': None},
    }
    params, state = fine_tune(scl_jax.static_masks(masks), PARAMS)
    np.testing.assert_array_equal(
      np.asarray(params['a']['kernel']) == 0, masks['a']['kernel'] == 0
    )
    assert np.all(params['b']['kernel'] != PARAMS['b']['kernel'])
    assert scl_jax.get_masks(state)['b']['kernel'] is None

  def test_masks_of_another_run(self):
    """As `get_masks` gives them, in plain NumPy."""
    rule = scl_jax.random_pruning(0.25, key=KEY)
    masks = scl_jax.get_masks(
      scl_jax.sparsify(optax.sgd(0.1), rule).init(PARAMS)
    )
    given = scl_jax.static_masks(jax.tree.map(np.asarray, masks))
    params, _ = fine_tune(given, PARAMS)
    np.testing.assert_array_equal(flat(params) != 0, flat(masks) != 0)

  def test_zeros_are_kept_without_masks(self):
    zeros = jax.tree.map(lambda w: jnp.where(w > 0.5, w, 0), PARAMS)
    params, _ = fine_tune(scl_jax.static_masks(), zeros)
    np.testing.assert_array_equal(flat(params) != 0, flat(zeros) != 0)

  def test_masks_of_features(self):
    masks = {'a': {'kernel': jnp.array([[1, 0, 1, 1, 0, 1]])}}
    params, _ = fine_tune(scl_jax.static_masks(masks), PARAMS)
    live = np.any(np.asarray(params['a']['kernel']) != 0, axis=0)
    np.testing.assert_array_equal(live, [1, 0, 1, 1, 0, 1])

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      (({'a': None},), 'holds no array'),
      (({'a': jnp.array([0.5])},), "must hold 0 and 1 only.*'a'"),
      (({'a': 'mask'},), "masks must hold arrays.*'a' is a str"),
    ],
  )
  def test_errors(self, arguments, message):
    with pytest.raises(ValueError, match=message):
      scl_jax.static_masks(*arguments)

  def test_masks_or_prunable(self):
    with pytest.raises(ValueError, match='not both'):
      scl_jax.static_masks({'a': jnp.ones(2)}, prunable='a')

  @pytest.mark.parametrize(
    ('masks', 'message'),
    [
      ({'c': jnp.ones(2)}, "(?s)do not fit.*'c'"),
      ({'a': {'kernel': jnp.ones((8, 7))}}, "do not fit the weight 'a/kernel'"),
    ],
  )
  def test_masks_that_do_not_fit(self, masks, message):
    with pytest.raises(ValueError, match=message):
      scl_jax.static_masks(masks).init(PARAMS)
