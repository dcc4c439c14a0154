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
"""Tests of costs.py: each product counts once, whatever its operands are."""

import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import random_nets

import scl_jax
from scl_jax import graph as graph_lib
from scl_jax import tree as tree_lib
from scl_jax.macs import costs

pytestmark = pytest.mark.usefixtures('strict')


def _array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _total(fn, params, *inputs):
  rows = tree_lib.zip_leaves(params, costs(fn, params, *inputs))
  return sum(np.prod(leaf.shape) * cost for _, leaf, cost in rows)


def _conv(x, w):
  return lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def test_activations_of_params_alone_after_compaction():
  def fn(p, x):
    h = jnp.tanh(_conv(jnp.tanh(_conv(x, p['w'])), p['v']) + p['c'])
    return _conv(h, p['u'])

  shapes = {'w': (3, 3, 2, 4), 'v': (3, 3, 4, 4), 'c': (4,), 'u': (3, 3, 4, 6)}
  params = {name: jnp.ones(shape) for name, shape in shapes.items()}
  masks = {'w': jnp.zeros(shapes['w']), 'v': None, 'c': None, 'u': None}
  x = jnp.ones((1, 6, 6, 2))
  with jax.numpy_rank_promotion('allow'):
    small = scl_jax.compact(fn, params, masks, x, verify=False)
    found = costs(small.fn, small.params, x)
  # Nothing of x is left: u is applied to what c alone says.
  assert found == {'w': 0.0, 'v': 0.0, 'c': 0.0, 'u': 36.0}
  last = 36 * 9 * 4 * 6
  assert small.certificate.macs_before == 36 * 9 * (2 * 4 + 4 * 4) + last
  assert small.certificate.macs_after == last


@pytest.mark.parametrize('kind', random_nets.NETS)
def test_compaction_adds_no_macs(kind):
  make, names = random_nets.NETS[kind]
  with jax.numpy_rank_promotion('allow'):
    net, x = make(np.random.default_rng(1), names[:2])
    masks = jax.tree.map(jnp.ones_like, net.params)
    masks['p0'] = jnp.zeros_like(masks['p0'])
    small = scl_jax.compact(net.fn, net.params, masks, x, verify=False)
    found = costs(small.fn, small.params, x)
  assert small.certificate.macs_after <= small.certificate.macs_before
  for _, leaf, cost in tree_lib.zip_leaves(small.params, found):
    assert leaf.ndim > 1 or cost == 0


@pytest.mark.parametrize('bias', [(4,), (1, 4)])
@pytest.mark.parametrize('width', [1, 2, 9])
def test_biases_cost_nothing(bias, width):
  params = {'b': _array(*bias), 'w': _array(4, 3), 'v': _array(3, width)}
  fn = lambda p: jnp.tanh(jnp.tanh(p['b']).reshape(1, 4) @ p['w']) @ p['v']
  assert costs(fn, params) == {'b': 0.0, 'w': 1.0, 'v': 1.0}
  flipped = lambda p: p['v'].T @ (p['w'].T @ p['b'].reshape(4))
  assert costs(flipped, params) == {'b': 0.0, 'w': 1.0, 'v': 1.0}


@pytest.mark.parametrize('batch', [1, 5])
def test_learned_starts(batch):
  params = {'h0': _array(6), 'r': _array(6, 6), 'w': _array(3, 6)}

  def body(p, h, x):
    return jnp.tanh(x @ p['w'] + h @ p['r'])

  def start(p):
    return jnp.broadcast_to(p['h0'], (batch, 6))

  def loop(p, xs):
    h = start(p)
    for x in xs:
      h = body(p, h, x)
    return h

  def scan(p, xs):
    return lax.scan(lambda h, x: (body(p, h, x), None), start(p), xs)[0]

  xs = _array(4, batch, 3)
  expected = {'h0': 0.0, 'r': 4.0 * batch, 'w': 4.0 * batch}
  assert costs(loop, params, xs) == expected
  assert costs(scan, params, xs) == expected
  assert _total(scan, params, xs) == batch * 216


def test_low_rank_additions_count_once():
  params = {'w': _array(30, 40), 'a': _array(30, 2), 'b': _array(2, 40)}
  fn = lambda p, x: x @ (p['w'] + p['a'] @ p['b'])
  assert _total(fn, params, _array(1, 30)) == 30 * 2 * 40 + 30 * 40
  found = costs(fn, params, _array(1, 30))
  assert found == {'w': 1.0, 'a': 1200 / 60, 'b': 1200 / 80}
  (layer,) = graph_lib.layers(graph_lib.trace(fn, params, _array(1, 30)))
  assert (layer.path, layer.macs) == ('w', 1200)


def _loop(body, carry, length):
  for _ in range(length):
    carry = body(carry)
  return carry


def _scan(body, carry, length):
  return lax.scan(lambda c, _: (body(c), None), carry, None, length=length)[0]


@pytest.mark.parametrize('repeat', [_loop, _scan])
def test_what_a_loop_carries_may_become_data_late(repeat):
  params = {'a': _array(3, 3), 'b': _array(3, 3), 'w': _array(3, 3)}

  def moved(p, x):
    """Data from the third round on; before, a, then b."""
    body = lambda c: (c[1], c[2], c[2], c[3] + c[0] @ c[0])
    return repeat(body, (p['a'], p['b'], x, x), 5)[3]

  found = costs(moved, params, _array(3, 3))
  assert found == {'a': 3.0, 'b': 3.0, 'w': 0.0}

  def swapped(p, x):
    body = lambda c: (c[1], c[0], c[2] @ c[0])
    return repeat(body, (p['a'], p['b'], x), 5)[2]

  found = costs(swapped, params, _array(1, 3))
  assert found == {'a': 3.0, 'b': 2.0, 'w': 0.0}

  def params_alone(p):
    return repeat(lambda c: c @ p['w'], p['a'], 4)

  # The first round is the product of two matrices, later ones have activations.
  assert costs(params_alone, params) == {'a': 1.5, 'b': 0.0, 'w': 10.5}


def test_no_round_of_a_scan():
  params = {'a': _array(3, 3), 'w': _array(3, 3)}
  fn = lambda p, x: x @ _scan(lambda h: h @ p['w'], p['a'], 0)
  assert costs(fn, params, _array(1, 3)) == {'a': 1.0, 'w': 0.0}


def test_while_loops_count_their_body_once():
  params = {'h': _array(3), 'w': _array(3, 3)}

  def fn(p, x):
    body = lambda c: (c[0] + 1, jnp.tanh(x + c[1] @ p['w']))
    return lax.while_loop(lambda c: c[0] < x.sum(), body, (0, p['h']))[1]

  assert costs(fn, params, _array(3)) == {'h': 0.0, 'w': 1.0}


def test_data_with_a_part_from_params_is_data():
  params = {'c': _array(4), 'w': _array(3, 3), 'v': _array(9, 3)}

  def fn(p, x):
    h = x.at[:, 0].add(p['c']) @ p['w']
    return h.at[:, 0].set(p['v'][0, 0]) @ h.T

  assert costs(fn, params, _array(4, 3)) == {'c': 0.0, 'w': 4.0, 'v': 0.0}


def test_branches_of_params_and_of_data():
  params = {'a': _array(3, 3), 'w': _array(3, 3)}

  def fn(p, x):
    h = lax.cond(x.sum() > 0, lambda: x, lambda: p['a'])
    return h @ x + h @ p['w']

  assert costs(fn, params, _array(3, 3)) == {'a': 0.0, 'w': 3.0}


# Random networks that add up their MACs by hand while they are built.


class _Net:
  """`fn(params, x)` on T rows; `macs` are those by hand."""

  def __init__(self, seed, repeat):
    self.rng = np.random.default_rng(seed)
    self.repeat = repeat
    self.params, self.layers, self.macs = {}, [], 0
    self.rows, self.width = (int(n) for n in self.rng.integers(1, 6, 2))
    self.is_data = self.rng.random() < 0.5
    self.x = _array(self.rows, self.width)
    start = self.weights(self.width)
    if self.is_data:
      self.layers.append(lambda p, x: x + p[start])
    else:
      self.layers.append(lambda p, x: jnp.broadcast_to(p[start], x.shape))
    for choice in self.rng.integers(0, 4, 4):
      [self.dense, self.low_rank, self.rounds, self.mix][choice]()

  def weights(self, *shape):
    name = f'p{len(self.params)}'
    self.params[name] = _array(*shape)
    return name

  def dense(self):
    n, m = self.width, int(self.rng.integers(1, 6))
    w, s = self.weights(m, n), self.weights(m, 1)
    self.layers.append(
      lambda p, h: jnp.tanh(h @ (p[s] * p[w] / jnp.linalg.norm(p[w])).T)
    )
    self.macs += self.rows * n * m
    self.width = m

  def low_rank(self):
    n = self.width
    w, a, b = self.weights(n, n), self.weights(n, 2), self.weights(2, n)
    self.layers.append(jax.jit(lambda p, h: h @ (p[w] + p[a] @ p[b])))
    self.macs += n * 2 * n + self.rows * n * n

  def rounds(self):
    n, length = self.width, int(self.rng.integers(1, 5))
    w, start = self.weights(n, n), self.weights(n)

    def layer(p, h):
      first = jnp.broadcast_to(p[start], h.shape)
      return self.repeat(lambda c: jnp.tanh(h + c @ p[w]), first, length)

    self.layers.append(layer)
    self.macs += length * self.rows * n * n

  def mix(self):
    self.layers.append(lambda p, h: jax.nn.softmax(h @ h.T) @ h)
    if not self.is_data:  # of data it is no product with params
      self.macs += 2 * self.rows * self.rows * self.width

  def fn(self, params, x):
    for layer in self.layers:
      x = layer(params, x)
    return x


@pytest.mark.parametrize('seed', range(20))
def test_random_networks_by_hand(seed):
  nets = [_Net(seed, repeat) for repeat in (_loop, _scan)]
  with jax.numpy_rank_promotion('allow'):
    for net in nets:
      assert round(_total(net.fn, net.params, net.x), 6) == net.macs
    loop, scan = (costs(net.fn, net.params, net.x) for net in nets)
  assert loop == scan


@pytest.mark.parametrize('seed', range(5))
def test_layers_and_costs_agree(seed):
  """Where each product has data, both say the same of each leaf."""
  rng = np.random.default_rng(seed)
  widths = [4, *map(int, rng.integers(1, 6, 4))]
  params = [
    {'w': _array(n, m), 'm': _array(n, m), 's': _array(1, m)}
    for n, m in itertools.pairwise(widths)
  ]

  def fn(params, x):
    for p in params:
      x = jnp.tanh(x @ (p['s'] * jnp.where(p['m'] > 0, p['w'], 0)))
    return x

  with jax.numpy_rank_promotion('allow'):
    found = costs(fn, params, _array(3, 4))
    layers = graph_lib.layers(graph_lib.trace(fn, params, _array(3, 4)))
  by_layers = {layer.path: layer.macs for layer in layers}
  for path, leaf, cost in tree_lib.zip_leaves(params, found):
    assert by_layers.get(path, 0) == np.prod(leaf.shape) * cost
