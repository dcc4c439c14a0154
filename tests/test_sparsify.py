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
"""The wrapper, under every optimizer and for every kind of tree."""

import functools
import itertools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax


def make_params(key=0, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(key), 3)
  return {
    'Dense_0': {
      'kernel': jax.random.normal(keys[0], (6, 5)).astype(dtype),
      'bias': jnp.zeros(5, dtype),
    },
    'Dense_1': {
      'kernel': jax.random.normal(keys[1], (5, 3)).astype(dtype),
      'bias': jnp.zeros(3, dtype),
    },
  }


INPUTS = jax.random.normal(jax.random.key(7), (16, 6))
TARGETS = jax.random.normal(jax.random.key(8), (16, 3))


def loss_fn(params, inputs=INPUTS):
  inputs = inputs.astype(params['Dense_0']['kernel'].dtype)
  x = inputs @ params['Dense_0']['kernel'] + params['Dense_0']['bias']
  x = jnp.tanh(x)
  y = x @ params['Dense_1']['kernel'] + params['Dense_1']['bias']
  return jnp.mean((y - TARGETS.astype(y.dtype)) ** 2).astype(jnp.float32)


def strong_rule(**kwargs):
  """Prunes about half of a small network within twenty steps."""
  return scl_jax.scl(
    **{'penalty': 0.15, 'mask_optimizer': optax.sgd(0.1), **kwargs}
  )


def train(tx, params, steps, loss=loss_fn):
  @jax.jit
  def step(params, state):
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state, history = tx.init(params), []
  for _ in range(steps):
    params, state = step(params, state)
    history.append((params, state))
  assert step._cache_size() == 1  # no step compiles again
  return params, state, history


def labels(params):
  return jax.tree.map(lambda p: 'matrix' if p.ndim > 1 else 'vector', params)


OPTIMIZERS = {
  'sgd': lambda: optax.sgd(0.05),
  'momentum': lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
  'adam': lambda: optax.adam(1e-2),
  'adamw': lambda: optax.adamw(1e-2, weight_decay=0.1),
  'lion': lambda: optax.lion(1e-3, weight_decay=0.1),
  'muon': lambda: optax.contrib.muon(1e-2),
  'adafactor': lambda: optax.adafactor(1e-2, min_dim_size_to_factor=2),
  'clipped': lambda: optax.chain(
    optax.clip_by_global_norm(0.1), optax.adam(1e-2)
  ),
  'partition': lambda: optax.partition(
    {'matrix': optax.adam(1e-2), 'vector': optax.sgd(0.1)}, labels
  ),
  'masked': lambda: optax.masked(
    optax.adam(1e-2), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
  ),
  'multi_steps': lambda: optax.MultiSteps(optax.adam(1e-2), 3),
  'scheduled': lambda: optax.inject_hyperparams(optax.adam)(
    optax.cosine_decay_schedule(1e-2, 20)
  ),
}


@pytest.fixture(params=OPTIMIZERS)
def optimizer(request):
  return OPTIMIZERS[request.param]()


def assert_pruned_are_zero(params, state):
  masks = scl_jax.get_masks(state)
  for p, m in zip(
    jax.tree.leaves(params),
    jax.tree.structure(params).flatten_up_to(masks),
    strict=True,
  ):
    if m is not None:
      assert set(np.unique(m)) <= {0.0, 1.0}
      pruned = np.asarray(p, np.float32)[np.asarray(m) == 0]
      np.testing.assert_array_equal(pruned, 0.0)


class TestEveryOptimizer:
  def test_pruned_entries_are_exactly_zero_after_every_step(self, optimizer):
    tx = scl_jax.sparsify(optimizer, strong_rule())
    _, state, history = train(tx, make_params(), 24)
    for params, step_state in history:
      assert_pruned_are_zero(params, step_state)
    assert 0 < scl_jax.density(scl_jax.get_masks(state)) < 0.9

  def test_state_keeps_structure_shapes_and_dtypes(self, optimizer):
    tx = scl_jax.sparsify(optimizer, strong_rule())
    params = make_params()
    _, state, _ = train(tx, params, 3)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))

  def test_params_are_weights_times_masks(self, optimizer):
    tx = scl_jax.sparsify(optimizer, strong_rule())
    params, state, _ = train(tx, make_params(), 12)
    expected = scl_jax.apply_masks(
      scl_jax.get_sparsify_state(state).weights, scl_jax.get_masks(state)
    )
    chex.assert_trees_all_close(params, expected, rtol=1e-6, atol=1e-7)

  def test_weights_behind_closed_masks_rest(self, optimizer):
    tx = scl_jax.sparsify(optimizer, strong_rule())
    _, _, history = train(tx, make_params(), 24)
    rested = 0
    for (_, before), (_, after) in itertools.pairwise(history):
      for mask, old, new in zip(
        jax.tree.leaves(scl_jax.get_masks(before)),
        kernels(scl_jax.get_sparsify_state(before).weights),
        kernels(scl_jax.get_sparsify_state(after).weights),
        strict=True,
      ):
        closed = np.asarray(mask) == 0
        rested += closed.sum()
        np.testing.assert_array_equal(new[closed], old[closed])
    assert rested > 0

  def test_bfloat16_params_have_float32_weights(self, optimizer):
    tx = scl_jax.sparsify(optimizer, strong_rule())
    params, state, history = train(tx, make_params(dtype=jnp.bfloat16), 24)
    for step_params, step_state in history:
      assert_pruned_are_zero(step_params, step_state)
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}
    weights = scl_jax.get_sparsify_state(state).weights
    assert {w.dtype for w in jax.tree.leaves(weights)} == {
      jnp.dtype(jnp.float32)
    }
    assert scl_jax.density(scl_jax.get_masks(state)) < 0.9

  def test_resume_is_bitwise(self, optimizer):
    tx = scl_jax.sparsify(optimizer, strong_rule())
    params = make_params()
    _, _, history = train(tx, params, 8)
    saved = jax.tree.map(np.asarray, history[3])  # through host memory
    leaves, treedef = jax.tree.flatten(saved)
    step = jax.jit(functools.partial(one_step, tx))
    again = jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in leaves])
    for expected in history[4:]:
      again = step(*again)
      chex.assert_trees_all_equal(again, expected)


def kernels(tree):
  return [np.asarray(w) for w in jax.tree.leaves(tree) if w.ndim > 1]


def one_step(tx, params, state):
  grads = jax.grad(loss_fn)(params)
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state


class TestWrappedInTurn:
  """`sparsify` inside other transformations."""

  def test_in_multi_steps(self):
    tx = optax.MultiSteps(
      scl_jax.sparsify(optax.adam(1e-2), strong_rule()), every_k_schedule=2
    )
    params, state, _ = train(tx, make_params(), 48)
    assert_pruned_are_zero(params, state)
    assert scl_jax.density(scl_jax.get_masks(state)) < 0.9

  def test_in_partition(self):
    tx = optax.partition(
      {
        'matrix': scl_jax.sparsify(optax.adam(1e-2), strong_rule()),
        'vector': optax.sgd(0.1),
      },
      labels,
    )
    params, state, _ = train(tx, make_params(), 24)
    for p, m in zip(
      [x for x in jax.tree.leaves(params) if x.ndim > 1],
      jax.tree.leaves(scl_jax.get_masks(state)),
      strict=True,
    ):
      np.testing.assert_array_equal(np.asarray(p)[np.asarray(m) == 0], 0.0)

  def test_after_a_transformation_of_gradients(self):
    tx = optax.chain(
      optax.clip(1.0), scl_jax.sparsify(optax.sgd(0.1), strong_rule())
    )
    params, state, _ = train(tx, make_params(), 24)
    assert_pruned_are_zero(params, state)

  def test_vmap_over_the_penalty(self):
    params = make_params()
    penalties = jnp.array([0.0, 0.1, 0.3])

    def density(penalty):
      tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule(penalty=penalty))
      state = tx.init(params)
      p = params
      for _ in range(20):
        p, state = one_step(tx, p, state)
      return scl_jax.density(scl_jax.get_masks(state))

    together = jax.jit(jax.vmap(density))(penalties)
    alone = [float(jax.jit(density)(p)) for p in penalties]
    np.testing.assert_allclose(together, alone, atol=0.03)
    assert together[0] > together[1] > together[2]

  def test_in_a_scan_with_donation(self):
    tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule())

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def run(params, state):
      body = lambda carry, _: (one_step(tx, *carry), None)
      return jax.lax.scan(body, (params, state), None, length=20)[0]

    params = make_params()
    params, state = run(params, tx.init(params))
    assert_pruned_are_zero(params, state)


class TestGradients:
  """What the wrapper computes is the gradient of the explicit objective."""

  @pytest.mark.parametrize('estimator', scl_jax.ste.ESTIMATORS)
  @pytest.mark.parametrize('granularity', ['connection', 'feature', (2, 2)])
  def test_equal_explicit_differentiation(self, estimator, granularity):
    penalty = 0.01
    weights = make_params()
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
      return loss_fn(params) + penalty * count

    weight_grads, mask_grads = jax.grad(objective, argnums=(0, 1))(
      weights, mask_params
    )
    _, new = tx.update(jax.grad(loss_fn)(params), state, params)
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
      strong_rule(),
    )
    params = make_params()
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
      strong_rule(),
    )
    params = make_params()
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
    params = make_params()
    tx = scl_jax.sparsify(optax.adam(1e-2), alternating_rule(True))
    new, _, _ = train(tx, params, 1)
    np.testing.assert_array_equal(
      new['Dense_0']['kernel'][0], params['Dense_0']['kernel'][0]
    )

  @pytest.mark.parametrize('name', ['adam', 'momentum', 'partition', 'muon'])
  def test_one_that_starts_again_has_zero_weight_and_moments(self, name):
    params = make_params()
    tx = scl_jax.sparsify(OPTIMIZERS[name](), alternating_rule(False))
    _, _, history = train(tx, params, 4)
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

  def test_weights_of_an_own_function_are_never_reset(self):
    rule = scl_jax.soft_threshold(0.1)._replace(resumes_weights=False)
    with pytest.raises(ValueError, match='resumes_weights must be True'):
      scl_jax.sparsify(optax.sgd(0.1), rule)

  def test_a_state_without_masks_is_an_error(self):
    rule = scl_jax.MaskRule(lambda weights: {'m': 1}, lambda *_: {'m': 1})
    with pytest.raises(TypeError, match='attribute `masks`'):
      scl_jax.sparsify(optax.sgd(0.1), rule).init(make_params())


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
    tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule())
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
    assert_pruned_are_zero(new, state)

  def test_float0_gradients_of_integers(self):
    params = {'w': jnp.ones((3, 4)), 'n': jnp.arange(3)}
    tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule())
    grads = jax.grad(
      lambda p: jnp.sum(p['w'] * p['n'][:, None]), allow_int=True
    )(params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates['n'], [0, 0, 0])

  def test_state_survives_flattening(self):
    tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule())
    state = tx.init(make_params())
    leaves, treedef = jax.tree.flatten(state)
    chex.assert_trees_all_equal(treedef.unflatten(leaves), state)

  def test_sharded_params_give_a_sharded_state(self):
    mesh = jax.make_mesh((2,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.P('x', None))
    params = {'w': jax.device_put(jnp.ones((4, 6)), sharding)}
    tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule())
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
    self.tx = scl_jax.sparsify(optax.adam(1e-2), strong_rule())
    self.params = make_params()

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
    grads = make_params()
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
      scl_jax.sparsify(1e-2, strong_rule())

  def test_get_masks_of_something_else(self):
    with pytest.raises(ValueError, match='contains 0'):
      scl_jax.get_masks(optax.adam(1e-2).init(self.params))
    two = (self.tx.init(self.params), self.tx.init(self.params))
    with pytest.raises(ValueError, match='contains 2'):
      scl_jax.get_masks(two)
