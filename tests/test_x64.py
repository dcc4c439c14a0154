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
"""With `jax_enable_x64`: states, dtypes and numbers are those without it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import testing

KEY = jax.random.key(5)
COSTS = {
  'first': {'kernel': 3, 'bias': 0},
  'hole': None,
  'second': {'kernel': 1.5, 'bias': 0},
}


def _scl(**kwargs):
  return lambda: scl_jax.scl(freeze_step=8, **kwargs)


def _density(**kwargs):
  return _scl(target_density=0.4, **kwargs)


RULES = {
  'scl': lambda: scl_jax.scl(0.15),
  'scl, a schedule': lambda: scl_jax.scl(lambda step: 0.1 + 0.01 * step),
  'scl, a density': _density(),
  'scl, bfloat16': _density(mask_dtype=jnp.bfloat16),
  'scl, blocks': _density(granularity=(4, 4)),
  'scl, features': _density(granularity='feature', feature_price=0.5),
  'scl, before': _density(penalty_order='before', estimator='polynomial'),
  'scl, Adam': _density(
    normalizer=None, box=None, mask_optimizer=optax.adam(0.1)
  ),
  'scl, layers': _scl(target_density={'first/.*': 0.4, '.*': 0.5}),
  'scl, MACs': _scl(target_macs=0.4, costs=COSTS),
  # Numbers of NumPy are float64 and int64, and not weakly typed.
  'scl, numbers of NumPy': lambda: scl_jax.scl(
    target_density=np.float64(0.4),
    freeze_step=np.int64(8),
    ramp=np.float64(0.3),
    box=np.float64(0.3),
    init_value=np.float64(0.2),
    mask_optimizer=np.float64(0.05),
    feature_price=np.float64(0.5),
    normalizer=scl_jax.normalize_by_feature_norm(
      np.float64(0.9), update_every=np.int64(2)
    ),
  ),
  'gradual_magnitude': lambda: scl_jax.gradual_magnitude(
    0.3, end_step=np.int64(8), update_every=4, allocation='erdos_renyi'
  ),
  'saliency': lambda: scl_jax.gradual_magnitude(
    np.float64(0.3), end_step=8, update_every=4, score='saliency'
  ),
  'lamp': lambda: scl_jax.gradual_magnitude(
    0.3, end_step=8, update_every=4, score='lamp'
  ),
  'rigl': lambda: scl_jax.rigl(
    0.5, key=KEY, end_step=10, update_every=2, initial_fraction=np.float64(0.3)
  ),
  'set': lambda: scl_jax.sparse_evolutionary_training(
    0.5, key=KEY, end_step=10, update_every=2
  ),
  'snip': lambda: scl_jax.snip(0.3, num_batches=3),
  'random_pruning': lambda: scl_jax.random_pruning(
    0.3, key=KEY, allocation='global'
  ),
  'static_masks': scl_jax.static_masks,
  'dynamic_sparse_training': lambda: scl_jax.dynamic_sparse_training(
    np.float64(0.5)
  ),
  'soft_threshold': lambda: scl_jax.soft_threshold(
    lambda step: 0.1 * step, init_value=-1.0
  ),
}


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def _steps(rule):
  """The state at first, and `(params, state) -> the same` of one step."""
  tx = scl_jax.sparsify(optax.sgd(0.05, momentum=0.9), rule)

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(testing.loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  return tx, step


def _spec(tree):
  return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64])
@pytest.mark.parametrize('rule', RULES)
def test_states_keep_structure_and_dtypes(rule, dtype, x64):
  """Shapes and dtypes alone: what `scan` refuses, it refuses while tracing."""
  params = testing.make_params(dtype=dtype)
  tx, step = _steps(RULES[rule]())
  first = (params, tx.init(params))
  after, _ = jax.eval_shape(step, first, None)
  last, _ = jax.eval_shape(
    lambda carry: jax.lax.scan(step, carry, None, length=4), first
  )
  assert _spec(after) == _spec(last) == _spec(first)
  state = scl_jax.get_sparsify_state(first[1])
  assert all(w.dtype == dtype for w in jax.tree.leaves(state.weights))
  assert all(x.dtype.itemsize <= 4 for x in jax.tree.leaves(state.rule_state))


@pytest.mark.parametrize(
  'rule', ['scl, a density', 'scl, layers', 'scl, MACs', 'lamp', 'rigl', 'set']
)
def test_the_numbers_are_those_without_it(rule):
  def train():
    params = testing.make_params()
    tx, step = _steps(RULES[rule]())
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=12)[0])
    return jax.device_get(run((params, tx.init(params))))

  expected = train()
  with jax.enable_x64(True):
    got = train()
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
    got,
    expected,
  )
  masks, same = scl_jax.get_masks(got[1]), scl_jax.get_masks(expected[1])
  jax.tree.map(np.testing.assert_array_equal, masks, same)


def test_without_jit(x64):
  weights = {'w': jnp.ones((2, 3), jnp.float32)}
  rule = RULES['scl, numbers of NumPy']()
  state = rule.init(weights)
  assert _spec(rule.update(weights, state, weights)) == _spec(state)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float64])
def test_measures_and_reports(dtype, x64):
  params = testing.make_params(dtype=dtype)
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.static_masks())
  state = tx.init(params)
  masks = scl_jax.get_masks(state)
  assert scl_jax.density(masks).dtype == jnp.float32
  for measure, wanted in [
    (scl_jax.layer_density, jnp.float32),
    (scl_jax.live_connections, jnp.int32),
    (scl_jax.dead_features, jnp.int32),
  ]:
    assert {x.dtype for x in jax.tree.leaves(measure(masks))} == {
      jnp.dtype(wanted)
    }
  assert float(scl_jax.density(masks)) == np.float32(48 / 50)
  assert '48' in str(scl_jax.summary(params, masks))

  def fn(params, x):
    hidden = x @ params['first']['kernel'] + params['first']['bias']
    # Of the inputs, of params and of a constant.
    hidden = jnp.concatenate([jnp.tanh(hidden), jnp.ones((2, 1), dtype)], 1)
    return hidden[:, :5] @ params['second']['kernel']

  x = jnp.ones((2, 6), dtype)
  assert not scl_jax.diagnose(state, 10, fn=fn, params=params, inputs=(x,))
  macs = scl_jax.costs(fn, params, x)
  assert macs['first']['kernel'] == macs['second']['kernel'] == 2
  dead = jax.tree.map(jnp.copy, params)
  dead['second']['kernel'] = dead['second']['kernel'].at[1].set(0)
  small = scl_jax.compact(fn, dead, None, x)
  assert small.params['first']['kernel'].shape == (6, 4)
  np.testing.assert_allclose(small.fn(small.params, x), fn(dead, x), rtol=1e-5)


def test_gates_are_float32(x64):
  params = scl_jax.gates.init_gate(KEY, num_features=3)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
  decisions = scl_jax.gates.apply_gate(params, jnp.ones((2, 8, 8, 3)))
  means = scl_jax.gates.gate_means({'block': decisions})
  for value in (
    decisions,
    scl_jax.gates.polarization(means),
    scl_jax.gates.activity(means, target=np.float64(0.5)),
  ):
    assert value.dtype == jnp.float32
