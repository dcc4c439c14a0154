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
"""The wrapper computes the chain rule; what rules declare about regrowth."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import network
import numpy as np
import optax
import pytest

import scl_jax


class TestGradients:
  """What the wrapper computes is the gradient of the explicit objective."""

  @pytest.mark.parametrize('estimator', scl_jax.ste.ESTIMATORS)
  @pytest.mark.parametrize('granularity', ['connection', 'feature', (2, 2)])
  def test_equal_explicit_differentiation(self, estimator, granularity):
    penalty = 0.01
    weights = network.make_params()
    tx = scl_jax.sparsify(
      optax.sgd(1.0),
      scl_jax.scl(
        penalty,
        normalizer=None,
        mask_optimizer=optax.sgd(1.0),
        box=None,
        estimator=estimator,
        granularity=granularity,
      ),
    )
    state = tx.init(weights)
    # Mask variables on both sides of the threshold.
    mask_params = jax.tree.map(
      lambda m: jax.random.normal(jax.random.key(m.size), m.shape) * 0.6,
      state.rule_state.mask_params,
    )
    state = state._replace(
      rule_state=state.rule_state._replace(mask_params=mask_params)
    )
    params = scl_jax.effective_params(weights, mask_params)
    sizes = jax.tree.map(
      lambda w, m: None if m is None else jnp.full(m.shape, w.size / m.size),
      weights,
      mask_params,
    )
    if granularity == (2, 2):  # (6, 5) and (5, 3) are cut into unequal blocks
      sizes = {
        'Dense_0': {'kernel': np.outer([2, 2, 2], [2, 2, 1]), 'bias': None},
        'Dense_1': {'kernel': np.outer([2, 2, 1], [2, 1]), 'bias': None},
      }

    def objective(weights, mask_params):
      params = scl_jax.effective_params(
        weights, mask_params, estimator=estimator
      )
      count = scl_jax.connection_count(
        mask_params, costs=sizes, estimator=estimator
      )
      return network.loss_fn(params) + penalty * count

    weight_grads, mask_grads = jax.grad(objective, argnums=(0, 1))(
      weights, mask_params
    )
    _, new = tx.update(jax.grad(network.loss_fn)(params), state, params)
    chex.assert_trees_all_close(
        jax.tree.map(jnp.subtract, weights, new.weights),
        weight_grads, rtol=1e-6, atol=5e-7,
    )  # fmt: skip
    chex.assert_trees_all_close(
        jax.tree.map(jnp.subtract, mask_params, new.rule_state.mask_params),
        mask_grads, rtol=1e-6, atol=5e-7,
    )  # fmt: skip

  def test_clipping_sees_the_gradients_of_live_weights_only(self):
    seen = []

    def spy(updates, state, params=None):
      seen.append((optax.tree.norm(updates), optax.tree.norm(params)))
      return updates, state

    tx = scl_jax.sparsify(
      optax.GradientTransformation(optax.init_empty_state, spy),
      network.strong_rule(),
    )
    params = network.make_params()
    state = tx.init(params)
    mask = jnp.zeros((6, 5)).at[0].set(1.0)
    mask_params = state.rule_state.mask_params
    mask_params['Dense_0']['kernel'] = mask - 0.5
    grads = jax.tree.map(jnp.ones_like, params)
    tx.update(grads, state, params)
    live = 5 + 5 + 15 + 3
    np.testing.assert_allclose(seen[0][0], live**0.5, rtol=1e-6)
    effective = scl_jax.effective_params(params, mask_params)
    np.testing.assert_allclose(
      seen[0][1], optax.tree.norm(effective), rtol=1e-6
    )

  def test_extra_arguments_reach_the_optimizer(self):
    seen = []

    def update(updates, state, params=None, *, value):
      seen.append(value)
      return updates, state

    tx = scl_jax.sparsify(
      optax.GradientTransformationExtraArgs(optax.init_empty_state, update),
      network.strong_rule(),
    )
    params = network.make_params()
    tx.update(params, tx.init(params), params, value=3.0)
    assert seen == [3.0]


class ToyState(NamedTuple):
  count: jax.Array
  masks: Any


def alternating_rule(resumes_weights):
  """Closes the first row of every kernel in even states, the last in odd."""

  def masks(count, weights):
    return jax.tree.map(
      lambda w: (
        None if w.ndim < 2 else jnp.ones_like(w).at[-(count % 2)].set(0.0)
      ),
      weights,
    )

  return scl_jax.MaskRule(
    init=lambda weights: ToyState(jnp.int32(0), masks(jnp.int32(0), weights)),
    update=lambda grads, state, weights: ToyState(
      state.count + 1, masks(state.count + 1, weights)
    ),
    resumes_weights=resumes_weights,
  )


class TestOwnRule:
  """What a rule declares about connections that come back."""

  def test_a_connection_that_resumes_has_its_weight(self):
    params = network.make_params()
    tx = scl_jax.sparsify(optax.adam(1e-2), alternating_rule(True))
    new, _, _ = network.train(tx, params, 1)
    np.testing.assert_array_equal(
      new['Dense_0']['kernel'][0], params['Dense_0']['kernel'][0]
    )

  @pytest.mark.parametrize('name', ['adam', 'momentum', 'partition', 'muon'])
  def test_one_that_starts_again_has_zero_weight_and_moments(self, name):
    params = network.make_params()
    tx = scl_jax.sparsify(network.OPTIMIZERS[name](), alternating_rule(False))
    _, _, history = network.train(tx, params, 4)
    for step, (new, state) in enumerate(history):
      regrown = -(step % 2)
      np.testing.assert_array_equal(new['Dense_0']['kernel'][regrown], 0.0)
      moments = [
        leaf
        for leaf in jax.tree.leaves(state.inner_state)
        if leaf.shape == (6, 5)
      ]
      assert moments
      for moment in moments:
        np.testing.assert_array_equal(moment[regrown], 0.0)
        if step:
          assert np.any(np.asarray(moment[2]))

  @pytest.mark.parametrize(
    'optimizer',
    [
      optax.lbfgs(memory_size=3),
      optax.chain(
        optax.sgd(0.05, momentum=0.9),
        optax.scale_by_backtracking_linesearch(5, store_grad=True),
      ),
      optax.chain(optax.adam(0.05), optax.scale_by_zoom_linesearch(5)),
      # Labels of whole layers: the other's moments are no tree at all.
      optax.partition(
        {'one': optax.adam(0.05), 'other': optax.sgd(0.05, momentum=0.9)},
        {'Dense_0': 'one', 'Dense_1': 'other'},
      ),
    ],
  )
  def test_moments_start_again_in_any_state(self, optimizer):
    params = network.make_params()
    tx = scl_jax.sparsify(optimizer, alternating_rule(False))
    state, found = tx.init(params), 0

    @jax.jit
    def step(params, state):
      value, grads = jax.value_and_grad(network.loss_fn)(params)
      updates, state = tx.update(
        grads, state, params, value=value, grad=grads, value_fn=network.loss_fn
      )
      return optax.apply_updates(params, updates), state

    for index in range(4):
      params, state = step(params, state)
      regrown = -(index % 2)
      for layer, shape in [('Dense_0', (6, 5)), ('Dense_1', (5, 3))]:
        np.testing.assert_array_equal(params[layer]['kernel'][regrown], 0.0)
        for leaf in jax.tree.leaves(state.inner_state):
          if leaf.shape == shape:
            found += 1
            np.testing.assert_array_equal(leaf[regrown], 0.0)
            assert not index or np.any(np.asarray(leaf[2]))
    assert found >= 8

  @pytest.mark.parametrize(
    ('optimizer', 'number'),
    [
      (optax.rprop(0.01), 2),
      (optax.rmsprop(0.01, initial_scale=1.0), 1),
      (optax.adagrad(0.01, initial_accumulator_value=0.1), 1),
      (optax.sm3(0.01), 1),  # and a list of arrays for each weight
      (optax.contrib.schedule_free_sgd(0.01), 1),
    ],
  )
  def test_moments_start_again_from_fresh_values(self, optimizer, number):
    params = network.make_params()
    tx = scl_jax.sparsify(optimizer, alternating_rule(False))
    _, _, history = network.train(tx, params, 4)
    zeros = jax.tree.map(jnp.zeros_like, params)
    fresh = jax.tree.leaves(optimizer.init(zeros))
    for step, (_, state) in enumerate(history):
      regrown = -(step % 2)
      pairs = [
        (np.asarray(leaf), np.asarray(start))
        for leaf, start in zip(
          jax.tree.leaves(state.inner_state), fresh, strict=True
        )
        if leaf.shape == (6, 5)
      ]
      assert len(pairs) == number
      for leaf, start in pairs:
        assert np.all(np.isfinite(leaf))
        np.testing.assert_array_equal(leaf[regrown], start[regrown])
        if step:
          assert np.any(leaf[2] != start[2])

  def test_weights_of_an_own_function_are_never_reset(self):
    rule = scl_jax.soft_threshold(0.1)._replace(resumes_weights=False)
    with pytest.raises(ValueError, match='resumes_weights must be True'):
      scl_jax.sparsify(optax.sgd(0.1), rule)

  def test_a_state_without_masks_is_an_error(self):
    rule = scl_jax.MaskRule(lambda weights: {'m': 1}, lambda *_: {'m': 1})
    with pytest.raises(TypeError, match='attribute `masks`'):
      scl_jax.sparsify(optax.sgd(0.1), rule).init(network.make_params())
