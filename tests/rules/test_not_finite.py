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
"""A gradient that is not finite moves no mask variable."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax

PARAMS = {'w': jax.random.normal(jax.random.key(0), (6, 5)), 'b': jnp.zeros(5)}
NOTHING = jax.tree.map(jnp.zeros_like, PARAMS)
BAD = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS)
RULES = {
  'scl': scl_jax.scl(target_density=0.3, freeze_step=20),
  'before': scl_jax.scl(penalty=0.1, penalty_order='before', freeze_step=20),
  'bfloat16': scl_jax.scl(penalty=0.1, mask_dtype=jnp.bfloat16),
  'dst': scl_jax.dynamic_sparse_training(5e-4),
  'str': scl_jax.soft_threshold(5e-4),
}


def gradient(step):
  key = jax.random.fold_in(jax.random.key(1), step)
  return jax.tree.map(lambda p: jax.random.normal(key, p.shape), PARAMS)


def trained(rule, steps):
  state = rule.init(PARAMS)
  for step in range(steps):
    state = rule.update(gradient(step), state, PARAMS)
  return state


# The running norm is updated in steps 0 and 8, the scale of λ in step 0.
@pytest.mark.parametrize('steps', [0, 5, 8])
@pytest.mark.parametrize('name', RULES)
def test_it_counts_as_zero(name, steps):
  state = trained(RULES[name], steps)
  chex.assert_trees_all_equal(
    RULES[name].update(BAD, state, PARAMS),
    RULES[name].update(NOTHING, state, PARAMS),
  )


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', ['scl', 'before', 'bfloat16'])
def test_one_entry_leaves_the_others_as_they_are(name, value):
  state = trained(RULES[name], 8)
  bad, good = (gradient(8) for _ in range(2))
  bad['w'] = bad['w'].at[2, 3].set(value)
  good['w'] = good['w'].at[2, 3].set(0.0)
  chex.assert_trees_all_equal(
    RULES[name].update(bad, state, PARAMS),
    RULES[name].update(good, state, PARAMS),
  )


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.apply_if_finite(optax.adam(1e-3), 5),
    optax.chain(optax.zero_nans(), optax.adam(1e-3)),
    optax.MultiSteps(
      optax.adam(1e-3), 1, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
  ],
)
def test_a_run_whose_optimizer_is_guarded_goes_on(optimizer):
  tx = scl_jax.sparsify(optimizer, RULES['scl'])
  params, state, update = PARAMS, tx.init(PARAMS), jax.jit(tx.update)
  for step in range(25):
    grads = BAD if step == 5 else gradient(step)
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))
  assert np.count_nonzero(params['w']) == 9  # 0.3 of 30
  assert scl_jax.get_masks(state)['w'].sum() == 9


def weighed(gradients):
  """The mask of the six highest |mean of g w|, in NumPy."""
  scores = np.abs(np.mean([g['w'] for g in gradients], axis=0) * PARAMS['w'])
  return scores >= np.sort(scores, axis=None)[-6]


@pytest.mark.parametrize('value', [np.nan, np.inf])
class TestTheNextBatchDecides:
  """Where a mask is for good, or for long."""

  @pytest.mark.parametrize('batches', [1, 3])
  def test_snip(self, value, batches):
    rule = scl_jax.snip(0.2, num_batches=batches)
    good = [gradient(step) for step in range(batches)]
    one_row = {**good[0], 'w': good[0]['w'].at[3].set(value)}
    state, update = rule.init(PARAMS), jax.jit(rule.update)
    for grads in [one_row, *good[:-1], one_row]:
      state = update(grads, state, PARAMS)
      assert state.masks['w'].all()
    for grads in [good[-1], one_row, BAD]:
      state = update(grads, state, PARAMS)
      np.testing.assert_array_equal(state.masks['w'], weighed(good))

  def test_saliency(self, value):
    rule = scl_jax.gradual_magnitude(
      0.2, begin_step=1, end_step=1, score='saliency'
    )
    one_row = {**BAD, 'w': gradient(0)['w'].at[3].set(value)}
    state, update = rule.init(PARAMS), jax.jit(rule.update)
    for grads in [BAD, one_row, BAD]:
      state = update(grads, state, PARAMS)
      assert state.masks['w'].all()
    for step in range(2, 4):
      state = update(gradient(step), state, PARAMS)
      np.testing.assert_array_equal(state.masks['w'], weighed([gradient(2)]))

  def test_rigl_moves_only_layers_with_a_gradient(self, value):
    weights = {'a': {'w': PARAMS['w']}, 'b': {'w': PARAMS['w'] + 1}}
    rule = scl_jax.rigl(0.3, key=jax.random.key(4), end_step=9, update_every=1)
    state = rule.init(weights)._replace(count=jnp.int32(1))
    grads = {'a': gradient(0), 'b': gradient(1)}
    grads['a']['w'] = jnp.full((6, 5), value)
    grads['b']['w'] = grads['b']['w'].at[2].set(value)
    new = rule.update(
      {k: {'w': g['w']} for k, g in grads.items()}, state, weights
    )
    chex.assert_trees_all_equal(new.masks['a'], state.masks['a'])
    grown = new.masks['b']['w'] & ~state.masks['b']['w']
    assert grown.any()
    assert not grown[2].any()
