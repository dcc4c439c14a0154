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
"""Every rule under every optimizer: `scl_jax.testing`, check by check."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import testing

KEY = jax.random.key(5)

# Each acts within twelve steps; with the density that it promises, if it does.
RULES = {
  'scl': (
    scl_jax.scl(
      target_density=0.4, freeze_step=8, mask_optimizer=optax.sgd(0.1)
    ),
    0.4,
  ),
  'scl with a penalty': (
    scl_jax.scl(penalty=0.15, mask_optimizer=optax.sgd(0.1)),
    None,
  ),
  'scl in bfloat16': (
    scl_jax.scl(
      target_density=0.4,
      freeze_step=8,
      mask_optimizer=optax.sgd(0.1),
      mask_dtype=jnp.bfloat16,
    ),
    0.4,
  ),
  'gradual_magnitude': (
    scl_jax.gradual_magnitude(0.3, begin_step=1, end_step=9, update_every=3),
    0.3,
  ),
  'gradual_magnitude by layer': (
    scl_jax.gradual_magnitude(
      0.3, end_step=8, update_every=2, allocation='erdos_renyi'
    ),
    0.3,
  ),
  'one-shot saliency': (
    scl_jax.gradual_magnitude(0.3, begin_step=4, end_step=4, score='saliency'),
    0.3,
  ),
  'lamp': (
    scl_jax.gradual_magnitude(0.3, end_step=8, update_every=4, score='lamp'),
    0.3,
  ),
  'rigl': (
    scl_jax.rigl(0.5, key=KEY, end_step=10, update_every=2),
    0.5,
  ),
  'set': (
    scl_jax.sparse_evolutionary_training(
      0.5, key=KEY, end_step=10, update_every=2
    ),
    0.5,
  ),
  'snip': (scl_jax.snip(0.3), 0.3),
  'snip over batches': (scl_jax.snip(0.3, num_batches=3), 0.3),
  'random_pruning': (scl_jax.random_pruning(0.3, key=KEY), 0.3),
  'static_masks': (scl_jax.static_masks(), 48 / 50),
  'dynamic_sparse_training': (
    scl_jax.dynamic_sparse_training(0.5, mask_optimizer=optax.sgd(0.1)),
    None,
  ),
  'soft_threshold': (
    scl_jax.soft_threshold(0.1, init_value=-1.0, mask_optimizer=optax.sgd(0.1)),
    None,
  ),
}

each_rule = pytest.mark.parametrize(
  'rule', [rule for rule, _ in RULES.values()], ids=RULES
)
each_density = pytest.mark.parametrize(
  ('rule', 'density'),
  [
    pytest.param(rule, density, id=name)
    for name, (rule, density) in RULES.items()
    if density is not None
  ],
)


@each_rule
@pytest.mark.parametrize('optimizer', testing.OPTIMIZERS)
def test_under(optimizer, rule):
  testing.check_optimizer(rule, optimizer)


@each_density
def test_reaches_the_density(rule, density):
  testing.check_density(rule, density)


@each_rule
def test_jit_and_vmap(rule):
  testing.check_jit_and_vmap(rule)


@each_rule
def test_bfloat16(rule):
  testing.check_bfloat16(rule)


@each_rule
def test_not_finite(rule):
  testing.check_not_finite(rule)


@each_rule
def test_empty_selection(rule):
  testing.check_empty_selection(rule)


@each_rule
def test_without_jit_steps_do_not_compile_again(rule):
  """Branches are functions that are made once, or Python's."""
  weights = {'w': jnp.ones((6, 5)), 'b': jnp.zeros(5)}
  events = []
  listener = lambda event, duration, **_: events.append(event)
  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    # All that is done now and then is done by a first run.
    for _ in range(2):
      events.clear()
      state = rule.init(weights)
      for _ in range(12):
        state = rule.update(weights, state, weights)
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)
  assert not [event for event in events if 'backend_compile' in event]


@each_rule
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_without_implicit_promotion(rule, dtype):
  tx = scl_jax.sparsify(optax.sgd(0.1, momentum=0.9), rule)
  params = testing.make_params(dtype=dtype)
  with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
    state = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, state, params)
  assert jax.tree.leaves(after) == jax.tree.leaves(state)
  assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize('name', ['scl', 'lamp', 'rigl', 'snip over batches'])
def test_under_sam(name):
  """It computes with the entries of states, also with masks."""
  rule, density = RULES[name]
  rule = rule._replace(update=jax.jit(rule.update))
  tx = optax.contrib.sam(
    scl_jax.sparsify(optax.adam(1e-2), rule), optax.sgd(0.05)
  )
  params = testing.make_params()
  state = tx.init(params)
  for _ in range(24):  # every second update is one of the network
    grads = jax.grad(testing.loss)(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  masks = scl_jax.get_masks(state)
  assert sum(m.sum() for m in jax.tree.leaves(masks)) == round(50 * density)
  for name in ('first', 'second'):
    pruned = masks[name]['kernel'] == 0
    np.testing.assert_array_equal(params[name]['kernel'][pruned], 0.0)
