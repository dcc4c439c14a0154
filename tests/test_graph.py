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
"""Tests of the graph package: tracing, layers, groups of features."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import graph as graph_lib
from scl_jax import tree as tree_lib
from scl_jax.macs import costs


def names(fn, *args):
  return [node.name for node in graph_lib.trace(fn, *args).nodes]


def run(fn, params, *inputs):
  """The function's results, node by node."""
  graph = graph_lib.trace(fn, params, *inputs)
  leaves = jax.tree.leaves((params, inputs))
  values = dict(zip((*graph.leaves, *graph.inputs), leaves, strict=True))
  values.update(graph.constants)
  for node in graph.nodes:
    results = node.bind(*(values[v] for v in node.inputs), **node.params)
    values.update(zip(node.outputs, results, strict=True))
  return [values[v] for v in graph.outputs]


def groups_of(fn, params, *inputs):
  """{(path, axis): groups}, and which groups are pinned."""
  graph = graph_lib.trace(fn, params, *inputs)
  labelled = graph_lib.label(graph)
  found = {
    (path, axis): labelled.groups[ids]
    for path, leaf in zip(graph.paths, graph.leaves, strict=True)
    for axis, ids in enumerate(labelled.body.labels[leaf])
  }
  return found, labelled.pinned


def test_calls_are_opened():
  inner = jax.jit(lambda x, w: jax.nn.relu(x @ w))
  fn = jax.checkpoint(lambda p, x: inner(x, p['w']))
  graph = graph_lib.trace(fn, {'w': jnp.ones((3, 2))}, jnp.ones((1, 3)))
  assert [n.name for n in graph.nodes][:2] == ['dot_general', 'max']
  assert [call.name for call in graph.calls] == [
    'checkpoint',
    'custom_jvp_call',
  ]
  outer, relu = graph.calls
  assert outer.start == 0 < relu.start < relu.stop <= outer.stop
  assert relu.rule is not None


def loop(steps):
  return lambda p, x: lax.fori_loop(0, steps, lambda _, h: h @ p, x)


def test_short_loops_are_written_out_and_others_stay_closed():
  w, x = jnp.ones((2, 2)), jnp.ones((1, 2))
  assert names(loop(3), w, x).count('dot_general') == 3
  assert names(loop(10_000), w, x)[-1] == 'scan'

  def nested(p, x):
    return lax.fori_loop(0, 100, lambda _, h: loop(90)(p, h), x)

  assert names(nested, w, x)[-1] == 'scan'
  endless = lambda p, x: lax.while_loop(lambda h: h.sum() < 9, jnp.sin, x @ p)
  assert names(endless, w, x)[-1] == 'while'


@pytest.mark.parametrize('reverse', [False, True])
def test_a_scan_that_is_written_out_computes_the_same(reverse):
  """Carries, what is captured, slices and stacks; a tree of each."""

  def fn(p, x):
    def step(carry, row):
      h, count = carry
      h = jnp.tanh(row['a'] @ p + h)
      return (h, count + 1), {'h': h * row['b'], 'count': count}

    rows = {'a': x, 'b': x[:, :1, :1] + 1}
    return lax.scan(step, (jnp.zeros((2, 4)), 0), rows, reverse=reverse)

  keys = jax.random.split(jax.random.key(0))
  p, x = (
    jax.random.normal(keys[0], (3, 4)),
    jax.random.normal(keys[1], (5, 2, 3)),
  )
  assert 'scan' not in names(fn, p, x)
  for ours, right in zip(run(fn, p, x), jax.tree.leaves(fn(p, x)), strict=True):
    np.testing.assert_allclose(ours, right, rtol=1e-6)


def test_the_nodes_compute_the_function():
  model = nn.Sequential([nn.Conv(3, (3, 3)), nn.gelu, nn.LayerNorm()])
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 2))
  params = model.init(jax.random.key(1), x)
  (ours,) = run(model.apply, params, x)
  np.testing.assert_array_equal(ours, model.apply(params, x))


def test_layers():
  def fn(p, x):
    x = lax.conv_general_dilated(
      x, p['conv'] * p['mask'], (1, 1), 'VALID',
      dimension_numbers=('NHWC', 'OIHW', 'NHWC'),
    )  # fmt: skip
    x = x.reshape(x.shape[0], -1)
    return (p['w'].T @ x.T).T @ p['v'] @ p['v']

  params = {
    'conv': jnp.ones((4, 2, 3, 3)),
    'mask': jnp.ones((4, 1, 1, 1)),
    'w': jnp.ones((36, 5)),
    'v': jnp.ones((5, 5)),
  }
  x = jnp.ones((2, 5, 5, 2))
  graph = graph_lib.trace(fn, params, x)
  found = [
    (layer.path, layer.operand, layer.in_axes, layer.out_axes, layer.macs)
    for layer in graph_lib.layers(graph)
  ]
  assert found == [
    ('conv', 1, (1,), (0,), 2 * 9 * 4 * 2 * 9),
    ('w', 0, (0,), (1,), 2 * 36 * 5),
    ('v', 1, (0,), (1,), 2 * 25),
    ('v', 1, (0,), (1,), 2 * 25),
  ]
  prices = costs(fn, params, x)
  for path, leaf, price in tree_lib.zip_leaves(params, prices):
    total = sum(macs for name, *_, macs in found if name == path)
    assert total == leaf.size * price


def test_layers_of_heads():
  model = nn.MultiHeadDotProductAttention(2)
  x = jnp.ones((1, 5, 6))
  params = jax.eval_shape(model.init, jax.random.key(0), x)
  layers = graph_lib.layers(graph_lib.trace(model.apply, params, x))
  axes = {
    layer.path.split('/')[1]: (layer.in_axes, layer.out_axes)
    for layer in layers
  }
  assert axes == {
    **dict.fromkeys(('query', 'key', 'value'), ((0,), (1, 2))),
    'out': ((0, 1), (2,)),
  }


def test_a_chain_is_tied():
  params = {'w': jnp.ones((3, 4)), 'b': jnp.ones(4), 'v': jnp.ones((4, 2))}
  fn = lambda p, x: jnp.tanh(x @ p['w'] + p['b']) @ p['v']
  found, pinned = groups_of(fn, params, jnp.ones((1, 3)))
  hidden = found['w', 1]
  assert len(set(hidden)) == 4
  assert not pinned[hidden].any()
  for other in (('b', 0), ('v', 0)):
    np.testing.assert_array_equal(found[other], hidden)
  assert pinned[found['w', 0]].all()
  assert pinned[found['v', 1]].all()


def test_flattening_ties_blocks():
  params = {'k': jnp.ones((3, 3, 1, 4)), 'w': jnp.ones((16, 2))}

  def fn(p, x):
    x = lax.conv_general_dilated(
      x, p['k'], (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return x.reshape(x.shape[0], -1) @ p['w']

  found, pinned = groups_of(fn, params, jnp.ones((1, 4, 4, 1)))
  np.testing.assert_array_equal(found['w', 0], np.tile(found['k', 3], 4))
  assert not pinned[found['k', 3]].any()
  assert pinned[found['k', 0]].all()


def test_sums_and_concatenations():
  params = {'a': jnp.ones((2, 3)), 'b': jnp.ones((2, 3)), 'c': jnp.ones((2, 2))}
  params['v'] = jnp.ones((5, 1))

  def fn(p, x):
    total = x @ p['a'] + x @ p['b']
    return jnp.concatenate([total, x @ p['c']], -1) @ p['v']

  found, pinned = groups_of(fn, params, jnp.ones((1, 2)))
  np.testing.assert_array_equal(found['a', 1], found['b', 1])
  np.testing.assert_array_equal(
    found['v', 0], np.concatenate([found['a', 1], found['c', 1]])
  )
  assert not pinned[found['v', 0]].any()


@pytest.mark.parametrize(
  'through',
  [
    lambda h: jnp.cumsum(h, axis=-1),
    lambda h: jnp.sort(h, -1),
    lambda h: h.max(-1, keepdims=True) - h,
    lambda h: jnp.fft.rfft(h).real @ jnp.ones((3, 4)),
  ],
)
def test_what_mixes_features_keeps_them(through):
  params = {'w': jnp.ones((3, 4)), 'v': jnp.ones((4, 2))}
  fn = lambda p, x: through(x @ p['w']) @ p['v']
  found, pinned = groups_of(fn, params, jnp.ones((1, 3)))
  assert pinned[found['w', 1]].any()


def test_what_sums_pairs_ties_them():
  params = {'w': jnp.ones((3, 4)), 'v': jnp.ones((2, 2))}
  fn = lambda p, x: (x @ p['w']).reshape(-1, 2, 2).sum(2) @ p['v']
  found, _ = groups_of(fn, params, jnp.ones((1, 3)))
  pairs = found['w', 1].reshape(2, 2)
  np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
  np.testing.assert_array_equal(pairs[:, 0], found['v', 0])
