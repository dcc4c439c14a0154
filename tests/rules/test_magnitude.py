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
"""The rule `gradual_magnitude` against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import scores

SHAPES = {'a': (9, 7), 'b': (7, 4)}
TOTAL = 63 + 28


def draw(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  tree = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in SHAPES.items()
  }
  tree['b'] *= np.float32(scale)
  return {name: {'kernel': jnp.asarray(w)} for name, w in tree.items()}


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def highest(values, count):
  mask = np.zeros(values.size, bool)
  mask[np.argsort(-values, kind='stable')[:count]] = True
  return mask


def lamp_in_numpy(weights):
  """w² / Σ over the entries not smaller, by the definition, in float64."""
  result = []
  for w in jax.tree.leaves(weights):
    squares = np.ravel(np.asarray(w, np.float64)) ** 2
    result.append([s / squares[squares >= s].sum() for s in squares])
  return np.concatenate(result)


class TestSchedule:
  def test_the_cubic_and_its_dates(self):
    rule = scl_jax.gradual_magnitude(
      0.2, begin_step=4, end_step=19, update_every=5
    )
    weights, zeros = draw(0), draw(0)
    update = jax.jit(rule.update)
    state, before, changes = rule.init(weights), TOTAL, {}
    for step in range(25):
      state = update(zeros, state, weights)
      live = int(flat(state.masks).sum())
      if live != before:
        changes[step], before = live, live
    density = lambda t: 0.2 + 0.8 * (1 - (t - 4) / 15) ** 3
    # At step 4 the density is still 1; 19 is the end.
    assert changes == {
      t: pytest.approx(TOTAL * density(t), abs=1) for t in (9, 14, 19)
    }
    assert before == round(0.2 * TOTAL)

  def test_one_shot(self):
    rule = scl_jax.gradual_magnitude(0.1, begin_step=2, end_step=2)
    weights = draw(0)
    state, live = rule.init(weights), []
    update = jax.jit(rule.update)
    for _ in range(4):
      state = update(weights, state, weights)
      live.append(int(flat(state.masks).sum()))
    assert live == [TOTAL, TOTAL, 9, 9]


def prune(weights, grads, density, **kwargs):
  rule = scl_jax.gradual_magnitude(density, end_step=0, **kwargs)
  state = jax.jit(rule.update)(grads, rule.init(weights), weights)
  return state.masks


class TestScores:
  @pytest.mark.parametrize('density', [0.05, 0.3, 0.77])
  def test_magnitude_over_all_layers(self, density):
    weights = draw(1)
    expected = highest(np.abs(flat(weights)), round(density * TOTAL))
    np.testing.assert_array_equal(
      flat(prune(weights, weights, density)), expected
    )

  @pytest.mark.parametrize('density', [0.05, 0.3, 0.77])
  def test_saliency(self, density):
    weights, grads = draw(1), draw(2)
    values = np.abs(flat(weights) * flat(grads))
    masks = prune(weights, grads, density, score='saliency')
    np.testing.assert_array_equal(
      flat(masks), highest(values, round(density * TOTAL))
    )

  @pytest.mark.parametrize('density', [0.02, 0.05, 0.3, 0.77, 1.0])
  @pytest.mark.parametrize('scale', [1.0, 100.0, 1e-20])
  def test_lamp(self, density, scale):
    weights = draw(3, scale)
    if scale == 1e-20:  # the same scores; in float64 their squares are exact
      expected = lamp_in_numpy(draw(3))
    else:
      expected = lamp_in_numpy(weights)
    masks = prune(weights, weights, density, score='lamp')
    np.testing.assert_array_equal(
      flat(masks), highest(expected, round(density * TOTAL))
    )

  def test_lamp_of_layers_of_zeros_and_of_equal_weights(self):
    weights = {
      'a': jnp.zeros((2, 3)),
      'b': jnp.ones((2, 2)),
      'c': jnp.arange(4.0),
    }
    for budget in range(15):
      counts = jax.jit(scores.lamp_budgets)(weights, budget)
      assert sum(int(n) for n in counts.values()) == min(budget, 14)

  def test_lamp_of_equal_magnitudes_is_that_of_a_sorted_list(self):
    rng = np.random.default_rng(0)
    shapes = {'a': (7, 5), 'b': (20, 3), 'c': (2, 2)}
    count = jax.jit(scores.lamp_budgets)
    for levels in (1, 3):
      weights, ranked = {}, []
      for name, shape in shapes.items():
        signs, sizes = (
          rng.choice([-1, 1], shape),
          rng.integers(levels, size=shape),
        )
        weights[name] = jnp.asarray(signs * (sizes + 1), jnp.float32)
        # The i-th of a list that falls, over the sum of the first i.
        falling = np.sort(np.ravel(sizes + 1))[::-1] ** 2
        ranked += [(s, name) for s in falling / np.cumsum(falling)]
      ranked.sort(key=lambda pair: -pair[0])
      for budget in (3, 10, 30, 60, 99):
        kept = [name for _, name in ranked[:budget]]
        counts = count(weights, budget)
        assert sum(int(n) for n in counts.values()) == budget
        for name, number in counts.items():
          assert int(number) == pytest.approx(kept.count(name), abs=1)
          assert int(number) > 0

  @pytest.mark.parametrize('allocation', ['uniform', 'erdos_renyi'])
  def test_by_layer(self, allocation):
    weights = draw(4)
    masks = prune(weights, weights, 0.3, allocation=allocation)
    counts = scl_jax.layer_budgets(weights, 0.3, allocation)
    for name in SHAPES:
      expected = highest(
        np.abs(np.ravel(weights[name]['kernel'])), counts[name]['kernel']
      )
      np.testing.assert_array_equal(np.ravel(masks[name]['kernel']), expected)


def test_a_pruned_weight_is_kept_and_can_come_back():
  """When what is live has become smaller than it."""
  params = {'w': jnp.array([[1.0, 2.0, 3.0, 4.0]])}
  rule = scl_jax.gradual_magnitude(
    0.5, end_step=4, begin_step=0, update_every=1
  )
  tx = scl_jax.sparsify(optax.sgd(1.0), rule)
  state = tx.init(params)
  grads = {'w': jnp.array([[0.0, 0.0, 0.0, 0.9]])}  # the last one shrinks
  step = jax.jit(tx.update)
  for _ in range(6):
    updates, state = step(grads, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(scl_jax.get_masks(state)['w'], [[0, 1, 1, 0]])


def test_vmap_over_densities():
  weights = draw(5)

  def live(density):
    return sum(jnp.sum(m) for m in jax.tree.leaves(
      prune(weights, weights, density)))  # fmt: skip

  counts = jax.vmap(live)(jnp.array([0.1, 0.5]))
  np.testing.assert_array_equal(counts, [9, 46])


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'target_density': 0}, r'target_density must be in \(0, 1\], got 0'),
    ({'begin_step': -1}, 'begin_step must be a whole number >= 0'),
    ({'begin_step': 9}, 'end_step must be a whole number >= 9, got 5'),
    ({'update_every': 0}, 'update_every must be a whole number >= 1'),
    ({'allocation': 'erk'}, "'global', 'uniform', 'erdos_renyi'; got 'erk'"),
    ({'score': 'l1'}, "score must be one of 'magnitude'.*got 'l1'"),
    ({'score': 'lamp', 'allocation': 'uniform'}, "allocation='global'"),
  ],
)
def test_errors(arguments, message):
  arguments = {'target_density': 0.5, 'end_step': 5, **arguments}
  with pytest.raises(ValueError, match=message):
    scl_jax.gradual_magnitude(**arguments)
