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
"""What XLA is given so that it can go over memory once."""

import os
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import scl_jax
from scl_jax import equations
from scl_jax import loop_fusion
from scl_jax import xla_options
from scl_jax.graph import nodes

PARAMS = {
  'kernel': jax.random.normal(jax.random.key(0), (6, 5)),
  'bias': jnp.ones(5),
  'half': {'kernel': jnp.ones((4, 3), jnp.bfloat16) / 3},
}
FLAGS = f'--xla_backend_extra_options={xla_options.MULTI_OUTPUT_FUSION}'
KEY = jax.random.key(5)
RULES = {
  'scl': scl_jax.scl(penalty=0.15, mask_optimizer=optax.sgd(0.1)),
  'density': scl_jax.scl(
    target_density=0.4, freeze_step=6, mask_optimizer=optax.adam(0.1)
  ),
  'before': scl_jax.scl(penalty=0.1, penalty_order='before'),
  'blocks': scl_jax.scl(penalty=0.1, granularity=(2, 2), estimator='softplus'),
  'bfloat16': scl_jax.scl(penalty=0.1, mask_dtype=jnp.bfloat16),
  'magnitude': scl_jax.gradual_magnitude(0.3, end_step=6, update_every=2),
  'rigl': scl_jax.rigl(0.5, key=KEY, end_step=8, update_every=2),
  'static': scl_jax.random_pruning(0.5, key=KEY),
}
OPTIMIZERS = {
  'adamw': optax.adamw(0.03, weight_decay=0.1),
  'clipped momentum': optax.chain(
    optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)
  ),
  'steps': optax.MultiSteps(optax.adam(0.03), 2).gradient_transformation(),
}


@pytest.fixture
def always(monkeypatch):
  """As with the option of XLA, and arrays of any size."""
  monkeypatch.setattr(xla_options, 'joins_loops', lambda: True)
  monkeypatch.setattr(loop_fusion, '_SMALLEST', 1)
  monkeypatch.setattr(loop_fusion, '_BLOCK', 3)


def trained(tx):
  params, state = PARAMS, tx.init(PARAMS)

  @jax.jit
  def step(params, state, count):
    noise = jax.random.fold_in(jax.random.key(1), count)
    grads = jax.tree.map(
      lambda p: p + jax.random.normal(noise, p.shape, p.dtype), params
    )
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  for count in range(10):
    params, state = step(params, state, count)
  return params, state


@pytest.mark.parametrize(
  ('rule', 'optimizer'),
  [(rule, 'adamw') for rule in RULES]
  + [('scl', name) for name in OPTIMIZERS if name != 'adamw'],
)
def test_a_step_is_the_same(rule, optimizer, request):
  tx = scl_jax.sparsify(OPTIMIZERS[optimizer], RULES[rule])
  expected, expected_state = trained(tx)
  request.getfixturevalue('always')
  params, state = trained(tx)
  chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, expected_state)
  masks = scl_jax.get_masks(state)
  assert 0 < scl_jax.density(masks) < 1
  chex.assert_trees_all_equal(params, scl_jax.apply_masks(params, masks))


def test_a_step_is_written_anew_where_the_option_is_set(monkeypatch):
  params = {'w': jnp.ones((512, 512))}
  for value in ('', FLAGS):
    monkeypatch.setenv('XLA_FLAGS', value)
    tx = scl_jax.sparsify(optax.adam(0.1), RULES['scl'])
    step = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    assert ('optimization_barrier' in str(step)) == bool(value)


def mixed(x, y, count):
  """Sums, branches, calls, whole numbers, and results that need one another."""
  total = jnp.sum(x * y, axis=0, keepdims=True)
  trace = 0.9 * y + jnp.where(x > 0, x, 0) / (1 + jnp.square(total))
  scaled = jax.jit(lambda t: jnp.tanh(t) * count)(trace)
  chosen = jax.lax.cond(count > 2, lambda: scaled - x, lambda: scaled)
  smooth = jax.nn.relu(chosen) + jax.checkpoint(jnp.sin)(trace)
  steps = (smooth > 0.5).astype(jnp.int32) + count
  return {
    'trace': trace,
    'all': [scaled, chosen, smooth, None],
    'steps': steps,
    'again': trace,
    'given': x,
    'constant': jnp.full_like(x, 2),
  }


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('count', [1, 3])
def test_any_function_is_the_same(count, dtype, always):
  x, y = (jax.random.normal(k, (4, 3), dtype) for k in jax.random.split(KEY))
  apart = loop_fusion.separately(mixed)
  expected = mixed(x, y, count)
  rtol, atol = (1e-5, 1e-6) if dtype == jnp.float32 else (2e-2, 0.0)
  for got in (apart(x, y, count), jax.jit(apart)(x, y, count)):
    chex.assert_trees_all_equal_dtypes(got, expected)
    chex.assert_trees_all_close(got, expected, rtol=rtol, atol=atol)
  by_row = jax.vmap(apart, (0, 0, None))(x, y, count)
  chex.assert_trees_all_close(
    by_row,
    jax.vmap(mixed, (0, 0, None))(x, y, count),
    rtol=rtol,
    atol=atol,
  )


def elementwise_parts(graph):
  """The elementwise nodes that each result is made of, by their place."""
  made_by = {v: i for i, node in enumerate(graph.nodes) for v in node.outputs}

  def parts(variable):
    found, to_visit = set(), [variable]
    while to_visit:
      place = made_by.get(to_visit.pop())
      if place is None or place in found:
        continue
      node = graph.nodes[place]
      if node.name in equations.ELEMENTWISE and graph.shape(node.outputs[0]):
        found.add(place)
        to_visit += node.inputs
    return found

  return [parts(v) for v in graph.outputs]


def shared(fn, *args):
  """Pairs of results of which both are made of one elementwise node."""
  found = elementwise_parts(nodes.trace(fn, *args))
  return sum(
    bool(found[i] & found[j]) for i in range(len(found)) for j in range(i)
  )


def test_results_share_nothing(always):
  optimizer = optax.adam(1e-3)
  params = {'w': jnp.ones((3, 2)), 'v': jnp.ones((2, 2))}
  args = params, optimizer.init(params), params
  assert shared(optimizer.update, *args) == 4  # with both moments
  assert shared(loop_fusion.separately(optimizer.update), *args) == 0


def test_dtypes_that_differ_are_left_alone(always):
  optimizer = optax.adam(1e-3, mu_dtype=jnp.bfloat16)
  params = {'w': jnp.ones((3, 2))}
  args = params, optimizer.init(params), params
  assert shared(loop_fusion.separately(optimizer.update), *args) == 2


def test_small_arrays_are_left_alone():
  optimizer = optax.adam(1e-3)
  params = {'w': jnp.ones((3, 2))}
  args = params, optimizer.init(params), params
  assert shared(loop_fusion.separately(optimizer.update), *args) == 2


def test_loops_that_xla_makes():
  """Three results of Adam in one loop, five of SCL in two, and six."""
  program = """
    import jax, jax.numpy as jnp, optax
    import scl_jax
    from scl_jax import loop_fusion, xla_options

    def loops(update, params, state):
      step = jax.jit(lambda g, s, p: update(g, s, p), donate_argnums=(1, 2))
      text = step.lower(params, state, params).compile().as_text()
      lines = text[text.index('ENTRY'):].splitlines()
      return sum(
        'f32[512,512]' in line.split(' fusion(')[0]
        for line in lines if ' fusion(' in line)

    def in_place(tx):
      def update(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state
      return update

    adam = optax.adam(1e-3)
    apart = adam._replace(update=loop_fusion.separately(adam.update))
    rule = scl_jax.scl(penalty=1e-3)
    scl = scl_jax.sparsify(adam, rule)
    more = scl_jax.sparsify(optax.amsgrad(1e-3), rule)  # as many operands as go
    params = {'w': jnp.ones((512, 512))}
    print([
      loops(in_place(tx), params, tx.init(params))
      for tx in (adam, apart, scl, more)
    ])
    xla_options.joins_loops = lambda: False
    print(loops(in_place(scl), params, scl.init(params)))
  """
  result = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(program)],
    env={**os.environ, 'XLA_FLAGS': FLAGS},
    capture_output=True,
    text=True,
    check=True,
  )
  with_it, without = result.stdout.splitlines()
  assert with_it == '[2, 1, 2, 2]'
  assert int(without) > 2
