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
"""Tests of compaction: laws on random networks, and known optima."""

import itertools

import hypothesis
from hypothesis import strategies as st
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import random_nets

import scl_jax
from scl_jax.graph import rules

# The outputs of the nets are of order 1, and so is the certificate's scale.
FLOAT32_BOUND = 1e-5


def removed(small, path):
  """The removed indices of each axis of a leaf."""
  leaf_axes = small.certificate.removed.get(path)
  return None if leaf_axes is None else [list(axis) for axis in leaf_axes]


@pytest.mark.parametrize('kind', random_nets.NETS)
@hypothesis.settings(max_examples=5)
@hypothesis.given(data=st.data())
def test_the_small_net_computes_the_same(kind, data):
  make, names = random_nets.NETS[kind]
  blocks = data.draw(st.lists(st.sampled_from(names), max_size=3))
  rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
  net, x = make(rng, blocks)
  masks = random_nets.random_masks(rng, net.params)
  small = scl_jax.compact(net.fn, net.params, masks, x, tolerance=FLOAT32_BOUND)
  assert small.certificate.difference64 < 1e-10
  assert small.certificate.difference32 < FLOAT32_BOUND
  assert small.certificate.params_after <= small.certificate.params_before


def mlp(sizes, rng, activation=jnp.tanh):
  """Biases are not 0, so that a dead unit is a constant other than 0."""
  params = [
    {'w': rng.normal(size=(n, m)), 'b': rng.normal(size=m)}
    for n, m in itertools.pairwise(sizes)
  ]

  def fn(params, x):
    for layer in params[:-1]:
      x = activation(x @ layer['w'] + layer['b'])
    return x @ params[-1]['w'] + params[-1]['b']

  return fn, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def weight_masks(params, choose):
  return jax.tree.map(
    lambda p: jnp.asarray(choose(p.shape), jnp.float32) if p.ndim > 1 else None,
    params,
  )


@hypothesis.settings(max_examples=15)
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_sequential_nets_reach_the_optimum(seed):
  """A unit stays iff it matters, by brute force: it moves, and moves the end.

  With tanh and weights in general position, a unit may go iff its value is the
  same for all inputs or shifting it never changes the output.
  """
  rng = np.random.default_rng(seed)
  fn, params = mlp((3, 5, 4, 2), rng)
  masks = weight_masks(params, lambda shape: rng.random(shape) < 0.3)
  masked = scl_jax.apply_masks(params, masks)
  x = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)

  def hidden(shift1, shift2):
    h1 = jnp.tanh(x @ masked[0]['w'] + masked[0]['b']) + shift1
    h2 = jnp.tanh(h1 @ masked[1]['w'] + masked[1]['b']) + shift2
    return h1, h2, h2 @ masked[2]['w'] + masked[2]['b']

  zero1, zero2 = jnp.zeros(5), jnp.zeros(4)
  first, second, out = hidden(zero1, zero2)
  small = scl_jax.compact(fn, params, masks, x, verify=False)
  for layer, values, shift in (
    (0, first, lambda i: (zero1.at[i].set(1.0), zero2)),
    (1, second, lambda i: (zero1, zero2.at[i].set(1.0))),
  ):
    moves = np.ptp(values, axis=0) > 1e-6
    matters = [
      bool((jnp.abs(hidden(*shift(i))[2] - out) > 1e-6).any())
      for i in range(values.shape[1])
    ]
    stay = np.flatnonzero(moves & np.array(matters))
    assert small.params[layer]['w'].shape[1] == len(stay)
    gone = set(range(values.shape[1])) - set(stay.tolist())
    assert set((removed(small, f'{layer}/w') or [[], []])[1]) == gone
  np.testing.assert_allclose(small.fn(small.params, x), out, atol=1e-5)


@hypothesis.settings(max_examples=15)
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_residual_nets_reach_the_optimum(seed):
  """The stream x + f(x): an index goes iff all of its places may.

  Found by trying all subsets of the stream and asking whether the function of
  the rest is the same with any values in the subset's weights.
  """
  rng = np.random.default_rng(seed)
  width = 4
  shapes = {'in': (2, width), 'up': (width, 3), 'down': (3, width)}
  shapes['out'] = (width, 2)
  params = {n: jnp.asarray(rng.normal(size=s), 'f') for n, s in shapes.items()}
  masks = weight_masks(params, lambda shape: rng.random(shape) < 0.4)

  def fn(p, x):
    h = x @ p['in']
    return (h + jnp.tanh(h @ p['up']) @ p['down']) @ p['out']

  masked = scl_jax.apply_masks(params, masks)
  x = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
  expected = fn(masked, x)

  def without(stream, inner):
    p = {name: np.array(leaf) for name, leaf in masked.items()}
    p['in'][:, stream] = p['out'][stream] = p['up'][stream] = 0
    p['down'][:, stream] = p['down'][inner] = p['up'][:, inner] = 0
    return np.abs(fn(p, x) - expected).max() < 1e-6

  best = max(
    len(stream) + len(inner)
    for stream in subsets(range(width))
    for inner in subsets(range(3))
    if without(list(stream), list(inner))
  )
  small = scl_jax.compact(fn, params, masks, x, verify=False)
  np.testing.assert_allclose(small.fn(small.params, x), expected, atol=1e-5)
  assert width + 3 - sum(small.params['up'].shape) == best


def subsets(items):
  items = list(items)
  return itertools.chain.from_iterable(
    itertools.combinations(items, n) for n in range(len(items) + 1)
  )


def test_nothing_to_remove():
  fn, params = mlp((3, 5, 2), np.random.default_rng(0))
  x = jnp.ones((4, 3))
  for masks in (None, weight_masks(params, np.ones)):
    small = scl_jax.compact(fn, params, masks, x)
    assert jax.tree.map(jnp.shape, small.params) == jax.tree.map(
      jnp.shape, params
    )
    assert not small.certificate.removed
    np.testing.assert_array_equal(small.fn(small.params, x), fn(params, x))


@pytest.mark.parametrize('layer', [0, 1, 2])
def test_a_dead_layer_leaves_the_constant(layer):
  fn, params = mlp((3, 5, 4, 2), np.random.default_rng(0))
  masks = weight_masks(params, np.ones)
  masks[layer]['w'] = jnp.zeros_like(masks[layer]['w'])
  x = jnp.ones((4, 3))
  small = scl_jax.compact(fn, params, masks, x)
  hidden = [leaf['w'].shape[1] for leaf in small.params[:-1]]
  assert hidden == [0, 0]
  np.testing.assert_allclose(
    small.fn(small.params, x),
    fn(scl_jax.apply_masks(params, masks), x),
    rtol=1e-5,
  )
  gradient = jax.grad(lambda p: small.fn(p, x).sum())(small.params)
  np.testing.assert_allclose(gradient[-1]['b'], [4.0, 4.0])


def test_the_certificate():
  fn, params = mlp((3, 5, 2), np.random.default_rng(0))
  masks = weight_masks(params, np.ones)
  masks[1]['w'] = masks[1]['w'].at[jnp.array([1, 3])].set(0)
  small = scl_jax.compact(fn, params, masks, jnp.ones((2, 3)))
  found = small.certificate
  assert dict(found.removed) == {
    '0/b': ((1, 3),),
    '0/w': ((), (1, 3)),
    '1/w': ((1, 3), ()),
  }
  assert (found.params_before, found.params_after) == (32, 20)
  assert (found.macs_before, found.macs_after) == (2 * 25, 2 * 15)
  assert '| parameters | 32 | 20 | 1.60 |' in str(found)
  assert '0/w: 2 of axis 1' in str(found)


@pytest.mark.parametrize('place', ['hidden', 'input', 'dropped input'])
@pytest.mark.parametrize(
  ('unread', 'left'), [([3], 8), ([3, 7], 8), ([4, 5, 6, 7], 4)]
)
def test_groups_go_whole(unread, left, place):
  """Two groups of four filters, and their inputs."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  params = {'w': draw(4, 4), 'g': draw(3, 3, 2, 8), 'v': draw(8, 3)}
  params['v'] = params['v'].at[jnp.array(unread)].set(0)
  if place != 'hidden':
    del params['w']

  def fn(p, x):
    if 'w' in p:
      x = jnp.tanh(x @ p['w'])
    x = jax.lax.conv_general_dilated(
      x, p['g'], (1, 1), 'SAME', feature_group_count=2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip
    return jnp.tanh(x) @ p['v']

  small = scl_jax.compact(
    fn, params, None, draw(2, 5, 5, 4), drop_inputs=place == 'dropped input'
  )
  left = 8 if place == 'input' else left
  assert small.params['g'].shape == (3, 3, 2, left)
  assert small.params['v'].shape == (left, 3)
  if place == 'hidden':
    assert small.params['w'].shape == (4, left // 2)


def test_verification_finds_what_zeros_do_not_hide(monkeypatch):
  """Of log|u| * m, what is behind m = 0 could go; but 0 times log 0 is no 0."""
  params = {
    'w': jnp.ones((3, 2)),
    'a': jnp.eye(2),
    'm': jnp.array([0.0, 1.0]),
    't': jnp.ones((3, 2)),
  }

  def fn(p, x):
    u = jnp.tanh(x @ p['w']) @ p['a']
    return (x @ p['t'] + jnp.log(jnp.abs(u)) * p['m']).sum(1)

  x = jnp.linspace(0.1, 1, 6).reshape(2, 3)
  small = scl_jax.compact(fn, params, None, x, verify=False)
  np.testing.assert_allclose(small.fn(small.params, x), fn(params, x))
  assert small.certificate.difference32 is None
  assert 'Outputs were not compared' in str(small.certificate)
  # Without the care that is taken of logarithms:
  monkeypatch.setattr(rules, 'is_bounded', lambda node, constants: True)
  with pytest.raises(ArithmeticError, match='differs by inf, more than'):
    scl_jax.compact(fn, params, None, x)


def _attention(p, x):
  q, k, v = (jnp.einsum('btc,chd->bthd', x, p[name]) for name in 'qkv')
  scores = jnp.einsum('bthd,bshd->bhts', q, k)
  is_past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  shares = jax.nn.softmax(jnp.where(is_past, scores, -jnp.inf))
  return jnp.einsum('bhts,bshd,hdc->btc', shares, v, p['o'])


def _standardized(p, x):
  h = jnp.einsum('btc,chd->bthd', x, p['q'])
  h = (h - h.mean((0, 1))) / jnp.sqrt(h.var((0, 1)) + 1e-5)
  return jnp.einsum('bthd,hdc->btc', h * p['s'], p['o'])


@pytest.mark.parametrize('fn', [_attention, _standardized])
def test_infinities_and_nans_that_are_only_chosen(fn):
  """As in a causal mask, and in `jnp.var` of nothing."""
  rng = np.random.default_rng(0)
  shapes = dict.fromkeys('qkv', (4, 3, 2)) | {'o': (3, 2, 4), 's': (3, 2)}
  params = {
    name: jnp.asarray(rng.normal(size=shape), jnp.float32)
    for name, shape in shapes.items()
  }
  masks = dict.fromkeys(params) | {'o': jnp.ones((3, 2, 4)).at[1].set(0)}
  x = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
  small = scl_jax.compact(fn, params, masks, x)
  assert removed(small, 'q') == [[], [1], []]
  assert removed(small, 'o') == [[1], [], []]
  x = x[:1, ::-1]
  np.testing.assert_allclose(
    small.fn(small.params, x),
    fn(scl_jax.apply_masks(params, masks), x),
    atol=1e-5,
  )


def test_batches_of_any_size_that_are_joined_with_positions():
  """Heads are joined as well: they go, as with batches of one size."""
  rng = np.random.default_rng(0)
  params = {'v': rng.normal(size=(4, 3, 2)), 'o': rng.normal(size=(6, 4))}
  params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
  masks = {'v': None, 'o': jnp.ones((6, 4)).at[2:4].set(0)}

  def fn(p, x):
    count, length, _ = x.shape
    heads = jnp.tanh(jnp.einsum('btc,chd->bthd', x, p['v']))
    joined = heads.reshape(count * length, 6) @ p['o']
    return joined.reshape(count, length, 4)

  x = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
  small = scl_jax.compact(fn, params, masks, x, verify=False)
  assert small.params['v'].shape == (4, 2, 2)
  (count,) = jax.export.symbolic_shape('count')
  spec = jax.ShapeDtypeStruct((count, 5, 4), jnp.float32)
  program = jax.export.export(jax.jit(small.fn))(small.params, spec)
  x = jnp.tile(x, (2, 1, 1))[:3]
  np.testing.assert_allclose(
    program.call(small.params, x),
    fn(scl_jax.apply_masks(params, masks), x),
    atol=1e-6,
  )
