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
"""The wrapper under every optimizer, and within other transformations."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import network
import numpy as np
import optax
import pytest

import scl_jax


@pytest.fixture(scope='module', params=network.OPTIMIZERS)
def optimizer(request):
  return network.OPTIMIZERS[request.param]()


@pytest.fixture(scope='module')
def trained(optimizer):
  """The wrapped optimizer, and (params, state) after each of 24 steps.

  Trained once for all tests, because compiling is what takes the time.
  """
  tx = scl_jax.sparsify(optimizer, network.strong_rule())
  _, _, history = network.train(tx, network.make_params(), 24)
  return tx, history


class TestEveryOptimizer:
  def test_pruned_entries_are_exactly_zero_after_every_step(self, trained):
    _, history = trained
    for params, state in history:
      network.assert_pruned_are_zero(params, state)
    assert 0 < scl_jax.density(scl_jax.get_masks(history[-1][1])) < 0.9

  def test_state_keeps_structure_shapes_and_dtypes(self, trained):
    tx, history = trained
    first = tx.init(network.make_params())
    for _, state in history:
      chex.assert_trees_all_equal_shapes_and_dtypes(state, first)

  def test_params_are_weights_times_masks(self, trained):
    _, history = trained
    for params, state in history:
      expected = scl_jax.apply_masks(
        scl_jax.get_sparsify_state(state).weights, scl_jax.get_masks(state)
      )
      chex.assert_trees_all_close(params, expected, rtol=1e-6, atol=1e-7)
      chex.assert_trees_all_equal(
        scl_jax.get_params(state, network.strong_rule()), expected
      )

  def test_weights_behind_closed_masks_rest(self, trained):
    _, history = trained
    rested = 0
    for (_, before), (_, after) in itertools.pairwise(history):
      for mask, old, new in zip(
        jax.tree.leaves(scl_jax.get_masks(before)),
        network.kernels(scl_jax.get_sparsify_state(before).weights),
        network.kernels(scl_jax.get_sparsify_state(after).weights),
        strict=True,
      ):
        closed = np.asarray(mask) == 0
        rested += closed.sum()
        np.testing.assert_array_equal(new[closed], old[closed])
    assert rested > 0

  def test_bfloat16_params_have_float32_weights(self, optimizer):
    tx = scl_jax.sparsify(optimizer, network.strong_rule())
    params, state, history = network.train(
      tx, network.make_params(dtype=jnp.bfloat16), 24
    )
    for step_params, step_state in history:
      network.assert_pruned_are_zero(step_params, step_state)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}
    weights = scl_jax.get_sparsify_state(state).weights
    assert {w.dtype for w in jax.tree.leaves(weights)} == {
      jnp.dtype(jnp.float32)
    }
    assert scl_jax.density(scl_jax.get_masks(state)) < 0.9

  def test_resume_is_bitwise(self, trained):
    tx, history = trained
    saved = jax.tree.map(np.asarray, history[3])  # through host memory
    leaves, treedef = jax.tree.flatten(saved)
    step = jax.jit(functools.partial(network.one_step, tx))
    again = jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in leaves])
    for expected in history[4:8]:
      again = step(*again)
      chex.assert_trees_all_equal(again, expected)


class TestWrappedInTurn:
  """`sparsify` inside other transformations."""

  def test_in_multi_steps(self):
    tx = optax.MultiSteps(
      scl_jax.sparsify(optax.adam(1e-2), network.strong_rule()),
      every_k_schedule=2,
    )
    params, state, _ = network.train(tx, network.make_params(), 48)
    network.assert_pruned_are_zero(params, state)
    assert scl_jax.density(scl_jax.get_masks(state)) < 0.9

  def test_in_partition(self):
    tx = optax.partition(
      {
        'matrix': scl_jax.sparsify(optax.adam(1e-2), network.strong_rule()),
        'vector': optax.sgd(0.1),
      },
      network.labels,
    )
    params, state, _ = network.train(tx, network.make_params(), 24)
    for p, m in zip(
      [x for x in jax.tree.leaves(params) if x.ndim > 1],
      jax.tree.leaves(scl_jax.get_masks(state)),
      strict=True,
    ):
      np.testing.assert_array_equal(np.asarray(p)[np.asarray(m) == 0], 0.0)

  def test_after_a_transformation_of_gradients(self):
    tx = optax.chain(
      optax.clip(1.0), scl_jax.sparsify(optax.sgd(0.1), network.strong_rule())
    )
    params, state, _ = network.train(tx, network.make_params(), 24)
    network.assert_pruned_are_zero(params, state)

  def test_vmap_over_the_penalty(self):
    params = network.make_params()
    penalties = jnp.array([0.0, 0.1, 0.3])

    def density(penalty):
      tx = scl_jax.sparsify(
        optax.adam(1e-2), network.strong_rule(penalty=penalty)
      )
      _, state = jax.lax.fori_loop(
        0,
        20,
        lambda _, carry: network.one_step(tx, *carry),
        (params, tx.init(params)),
      )
      return scl_jax.density(scl_jax.get_masks(state))

    together = jax.jit(jax.vmap(density))(penalties)
    alone = [float(jax.jit(density)(p)) for p in penalties]
    np.testing.assert_allclose(together, alone, atol=0.03)
    assert together[0] > together[1] > together[2]

  def test_in_a_scan_with_donation(self):
    tx = scl_jax.sparsify(optax.adam(1e-2), network.strong_rule())

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(params, state):
      body = lambda carry, _: (network.one_step(tx, *carry), None)
      return jax.lax.scan(body, (params, state), None, length=20)[0]

    params = network.make_params()
    params, state = run(params, tx.init(params))
    network.assert_pruned_are_zero(params, state)


def test_without_jit_regrowth_is_traced_once():
  """Finding the moments to reset calls the optimizer's init."""
  adam, calls = optax.adam(0.1), []
  counted = lambda params: calls.append(None) or adam.init(params)
  tx = scl_jax.sparsify(
    optax.GradientTransformation(counted, adam.update),
    scl_jax.rigl(0.5, key=jax.random.key(0), end_step=9, update_every=1),
  )
  params = {'w': jnp.ones((4, 3))}
  state = tx.init(params)
  counts = []
  for _ in range(3):
    updates, state = tx.update(params, state, params)
    params = optax.apply_updates(params, updates)
    counts.append(len(calls))
  assert counts[0] == counts[1] == counts[2] > 1


@pytest.mark.parametrize('given', ['scl', 'soft_threshold'])
def test_params_of_another_rule(given):
  """They would be other numbers, without a word."""
  rules = {
    'scl': scl_jax.scl(0.1),
    'soft_threshold': scl_jax.soft_threshold(0.1),
  }
  other = rules.pop(given)
  ((_, rule),) = rules.items()
  state = scl_jax.sparsify(optax.sgd(0.1), rule).init({'w': jnp.ones((2, 2))})
  with pytest.raises(ValueError, match='which another rule has made'):
    scl_jax.get_params(state, other)
  # Other numbers of the same rule are no other rule.
  stricter = scl_jax.scl(0.2, freeze_step=3)
  if given == 'soft_threshold':
    scl_jax.get_params(state, stricter)


@pytest.mark.parametrize('has_effective', [False, True])
def test_functions_are_called_with_what_is_optimized(has_effective):
  """Effective params, or the weights of a rule with its own `effective`."""

  def update(updates, state, params=None, *, value_fn, **extra_args):
    return updates, value_fn(params)

  optimizer = optax.GradientTransformationExtraArgs(lambda _: 0.0, update)
  rule = scl_jax.static_masks({'w': jnp.array([[1.0, 0], [0, 1]])})
  if has_effective:
    rule = scl_jax.soft_threshold(0.0, init_value=0.0)  # |w| below 0.5
  tx = scl_jax.sparsify(optimizer, rule)
  params = {'w': jnp.array([[1.0, 0.4], [0.3, 2.0]])}
  state = tx.init(params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  _, state = tx.update(zeros, state, params, value_fn=lambda p: p['w'].sum())
  np.testing.assert_allclose(state.inner_state, 3.7 if has_effective else 3.0)
  assert scl_jax.density(scl_jax.get_masks(state)) == 0.5
