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
"""The wrapper for every kind of tree, and its errors."""

import chex
import jax
import jax.numpy as jnp
import network
import numpy as np
import optax
import pytest

import scl_jax


class TestTrees:
  @pytest.mark.parametrize(
    'params',
    [
      [jnp.ones((3, 4)), jnp.ones(4), jnp.ones((4, 2))],
      ((jnp.ones((3, 4)), jnp.zeros(4)), (jnp.ones((4, 2)), jnp.zeros(2))),
      {'w': jnp.ones((3, 4)), 'hole': None, 'b': jnp.zeros(4)},
      {'w': jnp.ones((3, 4)), 'scale': 2.0, 'temperature': jnp.array(1.0)},
      {'w': jnp.ones((3, 4)), 'n': jnp.arange(3), 'steps': 5},
      {'weights': [jnp.ones((3, 4)), jnp.ones((4, 2))], 'biases': [1.0]},
      jnp.ones((3, 4)),
    ],
    ids=['list', 'tuple', 'None', 'scalars', 'integers', 'named', 'array'],
  )
  def test_kinds_of_trees(self, params):
    tx = scl_jax.sparsify(optax.adam(1e-2), network.strong_rule())
    state = tx.init(params)
    new = params
    for _ in range(10):
      grads = jax.tree.map(lambda p: jnp.ones_like(jnp.asarray(p)), new)
      updates, state = tx.update(grads, state, new)
      new = optax.apply_updates(new, updates)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    for old, leaf in zip(
      jax.tree.leaves(params), jax.tree.leaves(new), strict=True
    ):
      assert jnp.result_type(old) == jnp.result_type(leaf)
      if jnp.issubdtype(jnp.result_type(old), jnp.integer):
        np.testing.assert_array_equal(old, leaf)
      else:
        assert np.any(np.asarray(old) != np.asarray(leaf))
    network.assert_pruned_are_zero(new, state)

  @pytest.mark.parametrize(
    'rule',
    [
      scl_jax.gradual_magnitude(0.5, end_step=1),
      scl_jax.scl(target_density=0.5, freeze_step=3),
    ],
  )
  def test_eight_bits(self, rule):
    """JAX promotes no float8 by itself."""
    ones = lambda *shape: jnp.ones(shape, jnp.float8_e4m3fn)
    params = {'kernel': ones(4, 4), 'bias': ones(4)}
    tx = scl_jax.sparsify(optax.sgd(0.25), rule)
    state = tx.init(params)
    for _ in range(4):
      updates, state = tx.update(params, state, params)
      params = optax.apply_updates(params, updates)
    weights = scl_jax.get_sparsify_state(state).weights
    assert all(p.dtype == jnp.float8_e4m3fn for p in params.values())
    assert all(w.dtype == jnp.float32 for w in weights.values())
    assert np.count_nonzero(np.asarray(params['kernel'], np.float32)) == 8
    np.testing.assert_allclose(weights['bias'], 0.75**4, rtol=0.1)

  def test_float0_gradients_of_integers(self):
    params = {'w': jnp.ones((3, 4)), 'n': jnp.arange(3)}
    tx = scl_jax.sparsify(optax.adam(1e-2), network.strong_rule())
    grads = jax.grad(
      lambda p: jnp.sum(p['w'] * p['n'][:, None]), allow_int=True
    )(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates['n'], [0, 0, 0])

  def test_state_survives_flattening(self):
    tx = scl_jax.sparsify(optax.adam(1e-2), network.strong_rule())
    state = tx.init(network.make_params())
    leaves, treedef = jax.tree.flatten(state)
    chex.assert_trees_all_equal(treedef.unflatten(leaves), state)

  def test_sharded_params_give_a_sharded_state(self):
    mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.P('x', None))
    params = {'w': jax.device_put(jnp.ones((4, 6)), sharding)}
    tx = scl_jax.sparsify(optax.adam(1e-2), network.strong_rule())
    state = tx.init(params)
    new, state = jax.jit(
      lambda p, s: one_step_with(tx, p, s, lambda p: jnp.sum(p['w'] ** 2))
    )(params, state)
    assert state.weights['w'].sharding.is_equivalent_to(sharding, 2)
    mask_params = state.rule_state.mask_params['w']
    assert mask_params.sharding.is_equivalent_to(sharding, 2)
    assert new['w'].sharding.is_equivalent_to(sharding, 2)


def one_step_with(tx, params, state, loss):
  updates, state = tx.update(jax.grad(loss)(params), state, params)
  return optax.apply_updates(params, updates), state


class TestErrors:
  def setup_method(self):
    self.tx = scl_jax.sparsify(optax.adam(1e-2), network.strong_rule())
    self.params = network.make_params()

  def test_update_without_params(self):
    with pytest.raises(ValueError, match='params'):
      self.tx.update(self.params, self.tx.init(self.params))

  def test_leaf_that_is_no_array(self):
    with pytest.raises(ValueError, match="'act' is a"):
      self.tx.init({'w': jnp.ones((2, 2)), 'act': jax.nn.relu})
    with pytest.raises(ValueError, match="'name' is a str"):
      self.tx.init({'w': jnp.ones((2, 2)), 'name': 'mlp'})

  def test_gradients_of_another_tree(self):
    state = self.tx.init(self.params)
    with pytest.raises(
      ValueError, match=r'updates must fit params.*: the leaf .Dense_1'
    ):
      self.tx.update({'Dense_0': self.params['Dense_0']}, state, self.params)

  def test_gradients_of_another_shape(self):
    state = self.tx.init(self.params)
    grads = network.make_params()
    grads['Dense_0']['kernel'] = jnp.ones((6, 4))
    with pytest.raises(ValueError, match=r"'Dense_0/kernel' is \(6, 4\)"):
      self.tx.update(grads, state, self.params)

  def test_params_of_another_tree(self):
    state = self.tx.init(self.params)
    other = {'w': jnp.ones((2, 2))}
    with pytest.raises(ValueError, match='the state must fit params'):
      self.tx.update(other, state, other)

  def test_nothing_to_prune(self):
    with pytest.raises(ValueError, match=r"(?s)selects no leaf.*'b  "):
      self.tx.init({'b': jnp.ones(3)})

  def test_wrong_kinds_of_arguments(self):
    with pytest.raises(TypeError, match='rule must be a MaskRule'):
      scl_jax.sparsify(optax.adam(1e-2), 0.5)
    with pytest.raises(TypeError, match='optimizer must be'):
      scl_jax.sparsify(1e-2, network.strong_rule())

  def test_a_state_of_something_else(self):
    state = self.tx.init(self.params)
    for wrong in (self.params, optax.sgd(0.1).init(self.params)):
      with pytest.raises(TypeError, match=r'state must be what init .* a '):
        self.tx.update(self.params, wrong, self.params)
    with pytest.raises(TypeError, match='rule must be a MaskRule'):
      scl_jax.get_params(state, self.tx)  # pyright: ignore[reportArgumentType]

  def test_get_masks_of_something_else(self):
    with pytest.raises(ValueError, match='contains 0'):
      scl_jax.get_masks(optax.adam(1e-2).init(self.params))
    two = (self.tx.init(self.params), self.tx.init(self.params))
    with pytest.raises(ValueError, match='contains 2'):
      scl_jax.get_masks(two)
