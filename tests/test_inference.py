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
"""Networks outside JAX: the outputs are JAX's, whatever way is taken."""

from concurrent import futures
import math

import engine_checks
import equinox as eqx
from flax import linen as nn
from flax import nnx
import haiku as hk
import hypothesis
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
import random_nets

import scl_jax
from scl_jax import inference
from scl_jax.graph import nodes
from scl_jax.inference import network as network_lib
from scl_jax.inference import products
from scl_jax.inference import program as program_lib
from scl_jax.inference import trimming
from scl_jax.inference import ways

pytest.importorskip('numba')


@pytest.fixture(autouse=True)
def sparse_and_in_parts(monkeypatch):
  engine_checks.sparse_and_in_parts(monkeypatch)


@pytest.fixture
def dense(monkeypatch):
  monkeypatch.setattr(program_lib, 'timing', engine_checks.Clock(last=False))


@pytest.mark.parametrize('kind', random_nets.NETS)
@hypothesis.settings(max_examples=2)
@hypothesis.given(data=st.data())
def test_random_nets(kind, data):
  make, names = random_nets.NETS[kind]
  blocks = data.draw(st.lists(st.sampled_from(names), max_size=2))
  rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
  net, x = make(rng, blocks)
  masks = random_nets.random_masks(rng, net.params)
  params = scl_jax.apply_masks(net.params, masks)
  wanted = np.asarray(jax.jit(net.fn)(params, x))
  graph = trimming.trim(nodes.trace(net.fn, params, x), params)
  for last in (True, False):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(program_lib, 'timing', engine_checks.Clock(last=last))
      program = program_lib.build(graph, [np.zeros_like(x)])
    (output,) = program([np.asarray(x)])
    atol = 1e-5 * np.abs(wanted).max()
    np.testing.assert_allclose(output, wanted, rtol=0, atol=atol)


class ResNet(nn.Module):
  """Strides, projections, BatchNorm, both kinds of pooling."""

  @nn.compact
  def __call__(self, x):
    norm = lambda x: nn.BatchNorm(use_running_average=True)(x)
    x = nn.relu(norm(nn.Conv(6, (3, 3), use_bias=False)(x)))
    x = nn.max_pool(x, (3, 3), (2, 2), padding='SAME')
    y = nn.relu(norm(nn.Conv(8, (3, 3), 2, use_bias=False)(x)))
    y = norm(nn.Conv(8, (3, 3), kernel_dilation=2)(y))
    x = nn.relu(y + norm(nn.Conv(8, (1, 1), 2)(x)))
    x = nn.relu(x + norm(nn.Conv(8, (3, 3), feature_group_count=4)(x)))
    x = nn.avg_pool(x, (2, 2), (1, 1))
    return nn.softmax(nn.Dense(3)(x.reshape(x.shape[0], -1)))


def resnet():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 12, 10, 3)).astype(np.float32)
  params = engine_checks.random_params(
    rng, jax.eval_shape(ResNet().init, jax.random.key(0), x)
  )
  masks = engine_checks.masks_like(rng, params)
  return ResNet().apply, params, masks, x


def test_resnet_sparse():
  network = engine_checks.check(*resnet(), batch_sizes=(1, 3))
  assert [plan.way for plan in network.plans.values()] == ['engine'] * 2
  (plan, _) = network.plans.values()
  assert len(plan.choices) == 6
  assert {c.way for c in plan.choices[:-1]} == {'offset-csr'}
  assert plan.choices[-1].way == 'csr'
  assert 'density' in str(network)


def test_resnet_dense(dense):
  network = engine_checks.check(*resnet())
  (plan,) = network.plans.values()
  assert {choice.way for choice in plan.choices} == {'dense'}


def test_biases_norms_residuals_and_relus_are_fused():
  fn, params, _, x = resnet()
  program = program_lib.build(
    trimming.trim(nodes.trace(fn, params, x), params), [x]
  )
  names = [step.func.__name__ for step in program.steps if step.args]
  assert names.count('offset_csr') == 6
  assert names.count('add') == 3  # of the average pooling
  assert names.count('subtract') == 1  # of the softmax


def test_equinox():
  model = eqx.nn.Sequential([
    eqx.nn.Conv2d(2, 5, 3, stride=2, padding=1, key=jax.random.key(0)),
    eqx.nn.Lambda(jax.nn.gelu),
    eqx.nn.Lambda(jnp.ravel),
    eqx.nn.Linear(5 * 4 * 4, 3, key=jax.random.key(1)),
  ])  # fmt: skip
  params, static = eqx.partition(model, eqx.is_array)
  fn = lambda p, x: jax.vmap(eqx.combine(p, static))(x)
  rng = np.random.default_rng(0)
  masks = engine_checks.masks_like(rng, params)
  engine_checks.check(
    fn, params, masks, rng.normal(size=(4, 2, 8, 8)).astype(np.float32)
  )


def test_nnx():
  model = nnx.Sequential(
    nnx.Linear(8, 16, rngs=nnx.Rngs(0)),
    nnx.LayerNorm(16, rngs=nnx.Rngs(0)),
    nnx.silu,
    nnx.Linear(16, 2, rngs=nnx.Rngs(1)),
  )
  graphdef, state = nnx.split(model)
  params = nnx.to_pure_dict(state)

  def fn(params, x):
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)(x)

  rng = np.random.default_rng(0)
  masks = engine_checks.masks_like(rng, params)
  engine_checks.check(
    fn, params, masks, rng.normal(size=(4, 8)).astype(np.float32)
  )


def test_haiku_in_one_dimension():
  def net(x):
    x = jnp.tanh(hk.Conv1D(6, 3, stride=2, data_format='NCW')(x))
    return {'logits': hk.Linear(3)(hk.Flatten()(x)), 'mean': x.mean((1, 2))}

  transformed = hk.without_apply_rng(hk.transform(net))
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 2, 9)).astype(np.float32)
  params = transformed.init(jax.random.key(0), x)
  engine_checks.check(
    transformed.apply, params, engine_checks.masks_like(rng, params), x
  )


@pytest.mark.parametrize('few', [0, 1 << 14])
@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(data=st.data())
def test_convolutions_that_stride(few, data):
  draw = lambda low, high: data.draw(st.integers(low, high))
  strides, dilations = ((draw(1, 3), draw(1, 3)) for _ in range(2))
  paddings = [(draw(0, 3), draw(0, 3)) for _ in range(2)]
  taps, size = ((draw(1, 3), draw(1, 3)), (draw(7, 10), draw(7, 10)))
  rng = np.random.default_rng(0)
  kernel, x = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((*taps, 2, 3), (draw(1, 3), *size, 2))
  )
  fn = lambda p, x: lax.conv_general_dilated(
    x, p, strides, paddings, rhs_dilation=dilations,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(products, '_FEW', few)
    patch.setattr(ways, '_CACHED', few)
    patch.setattr(ways, '_PARTS', (5, 2))
    engine_checks.check(
      fn, jnp.asarray(kernel), engine_checks.masks_like(rng, kernel, 0.7), x
    )


W = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
PRIMITIVES = {
  'activations': lambda x: [
    f(x)
    for f in (
      jax.nn.elu, jax.nn.softplus, jax.nn.sigmoid, jax.nn.hard_swish,
      jax.nn.leaky_relu, jax.nn.log_softmax, jax.nn.relu6,
    )
  ],
  'gelu': lambda x: (
    jax.nn.gelu(x, approximate=False),
    lax.erf(x),
    jax.nn.gelu(x),
  ),
  'powers': lambda x: (
    x**2, x**3, jnp.abs(x) ** 0.5, lax.rsqrt(jnp.abs(x) + 1), 1 / (3 + x * x),
  ),
  'rounding': lambda x: (jnp.round(x), jnp.floor(x), jnp.sign(x), x % 1.0),
  'comparisons': lambda x: (
    jnp.where(x > 0, x, -x), x == x, ~(x < 0) & (x <= 1), jnp.clip(x, -1, 1),
  ),
  'types': lambda x: (
    x.astype(jnp.int32), jnp.argmax(x, -1), jnp.argmin(x, 0), x > 0,
    (1e10 * x).astype(jnp.int32), (1e3 * x).astype(jnp.uint8),
    jnp.log(x).astype(jnp.int8), (x / 0).astype(jnp.uint16),
  ),
  'reductions': lambda x: (
    x.sum(), x.max(-1), x.min(0), x.prod(-1), (x > 0).any(-1), x.var(),
    jnp.cumsum(x, -1), lax.cummax(x, 1, reverse=True),
  ),
  'movement': lambda x: (
    x.T, x[::-1, 1:-1:2], jnp.concatenate([x, x], 1), jnp.pad(x, 2),
    lax.pad(x, 1.0, ((-1, 2, 1), (3, -2, 2))), jnp.tile(x, (2, 1))[None],
    jnp.stack([x, x], 1).reshape(-1, 4), x.T.reshape(3, -1), W,
    jnp.split(x, [1, 4], 1), jnp.unstack(x, axis=1), jnp.stack([x, x], -1),
  ),
  'lookups': lambda x: (
    x[jnp.array([1, 5, 1])], x[:, jnp.array([[0, -1], [2, 3]])],
    x.T[jnp.eye(2, 3, dtype=int)], x.at[jnp.array([2, 9])].get(mode='clip'),
    jax.vmap(lambda row: row[jnp.array([3, 0])])(x),
    jnp.asarray(W)[x.astype(int)] * x[:, None],
    jax.image.resize(x.reshape(1, 3, 6, 2), (1, 6, 9, 2), 'nearest'),
  ),
  'pooling': lambda x: [
    lax.reduce_window(x, init, f, (2, 3), strides, 'SAME', None, dilation)
    for init, f in ((-jnp.inf, lax.max), (jnp.inf, lax.min), (0.0, lax.add))
    for strides, dilation in (((1, 2), (1, 1)), ((1, 1), (2, 2)))
  ],
  'products': lambda x: (
    x @ x.T, W @ x.T, jnp.einsum('ij,jk->ki', x, W), (x + 1) @ x[0],
    jnp.einsum('bi,bij->bj', x, jnp.stack([W] * len(x))), x @ W[:, 0],
    W[0] - x @ W, x @ W / 3 + x, jnp.maximum(x @ W, 0) * W[0], x @ (W * 0),
  ),
}  # fmt: skip


@pytest.mark.parametrize('name', PRIMITIVES)
def test_primitives(name):
  """Without params there is nothing that is left out."""
  x = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
  fn = lambda params, x: PRIMITIVES[name](x)
  engine_checks.check(fn, {'unused': jnp.ones(1)}, None, x)


@pytest.mark.parametrize('mode', ['fill', 'clip', 'wrap'])
@pytest.mark.parametrize('dtype', [np.int32, np.uint8])
def test_embeddings(mode, dtype):
  """Of tokens that compile has not seen, some not in the table."""
  fn = lambda p, ids: (
    jnp.tanh(jnp.take(p['table'], ids, axis=0, mode=mode)) @ p['w'],
    jnp.take(p['counts'], ids, axis=1, mode=mode),
  )
  rng = np.random.default_rng(0)
  params = {
    'table': jnp.asarray(rng.normal(size=(9, 5)), jnp.float32),
    'counts': jnp.asarray(rng.integers(0, 99, (3, 9))),
    'w': jnp.asarray(rng.normal(size=(5, 4)), jnp.float32),
  }
  masks = {**engine_checks.masks_like(rng, params, 0.7), 'counts': None}
  ids = rng.integers(0, 9, (1, 6)).astype(dtype)
  network = inference.compile(fn, params, masks, ids, batch_sizes=[1, 4])
  for size in (1, 4):
    # -1 is the last entry, or 255.
    ids = np.array([[0, 8, -1, -10, 9, 3]]).astype(dtype).repeat(size, 0)
    wanted = fn(scl_jax.apply_masks(params, masks), ids)
    for output, expected in zip(network(ids), wanted, strict=True):
      np.testing.assert_allclose(output, expected, atol=1e-5)


def test_outputs_are_the_callers_whatever_way_is_taken(monkeypatch):
  fn = lambda p, x: (x, x @ p, p, x.T, x)
  params, x = jnp.asarray(W), np.eye(6, dtype=np.float32)
  ways = set()
  for gain in (0, math.inf):  # XLA, the engine
    monkeypatch.setattr(program_lib, 'GAIN', gain)
    network = inference.compile(fn, params, None, x, batch_sizes=[6])
    ways |= {plan.way for plan in network.plans.values()}
    for output in network(x):
      output += 1
    np.testing.assert_array_equal(x, np.eye(6))
    wanted = (x, W, W, x, x)
    for output, expected in zip(network(x), wanted, strict=True):
      np.testing.assert_allclose(output, expected, rtol=1e-5)
  assert 'engine' in ways
  assert len(ways) == 2


def test_outputs_stay_and_threads_take_turns():
  params, x = jnp.asarray(W), np.eye(6, dtype=np.float32)
  network = inference.compile(lambda p, x: x @ p, params, None, x)
  first = network(x)
  kept = first.copy()
  network(2 * x)
  np.testing.assert_array_equal(first, kept)
  with futures.ThreadPoolExecutor(4) as pool:
    outputs = list(pool.map(lambda n: network(n * x), range(1, 200)))
  for n, output in enumerate(outputs, 1):
    np.testing.assert_allclose(output, n * W, rtol=1e-5)


class _Slow:
  """The last way needs 90 % of the time of the others."""

  def lower_quartiles(self, ways):
    return [1.0] * (len(ways) - 1) + [0.9]


def test_sparse_has_to_gain_15_percent(monkeypatch):
  x = np.ones((2, 6), np.float32)
  arguments = (lambda p, x: x @ p, jnp.asarray(W), None, x)
  monkeypatch.setattr(program_lib, 'timing', _Slow())
  (plan,) = engine_checks.check(*arguments).plans.values()
  assert [choice.way for choice in plan.choices] == ['dense']
  monkeypatch.setattr(network_lib, 'timing', _Slow())
  (plan,) = engine_checks.check(*arguments).plans.values()
  assert plan.way == 'dense'
