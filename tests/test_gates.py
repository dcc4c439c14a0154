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
"""Tests of gates.py: the property tests of the method, by NumPy and by hand."""

import functools
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import gates
from scl_jax import ste

pytestmark = pytest.mark.usefixtures('strict')

DECISIONS = hnp.arrays(
  np.float32,
  st.sampled_from([(1, 1), (2, 3), (9, 4)]),  # few, as each is compiled
  elements=st.sampled_from([0.0, 1.0]),
)


def random_gate(num_features=5, num_gates=3, seed=0):
  """A gate whose decisions differ from example to example."""
  params = gates.init_gate(
    jax.random.key(seed), num_features, num_gates, hidden=4
  )
  kernel = jax.random.normal(jax.random.key(seed + 1), (4, num_gates))
  bias = jnp.full(num_gates, -0.3)
  return {**params, 'logits': {'kernel': kernel, 'bias': bias}}


def reference(params, inputs):
  """(pooled, units, logits) in NumPy."""
  pooled = np.asarray(inputs, np.float64)
  pooled = pooled.reshape(len(pooled), -1, pooled.shape[-1]).mean(1)
  params = jax.tree.map(np.asarray, params)
  hidden, last = params['hidden'], params['logits']
  units = np.maximum(pooled @ hidden['kernel'] + hidden['bias'], 0)
  return pooled, units, units @ last['kernel'] + last['bias']


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('shape', [(20, 5), (20, 4, 5), (20, 4, 3, 5)])
def test_decisions(shape, dtype):
  params = random_gate()
  inputs = jax.random.normal(jax.random.key(3), shape).astype(dtype)
  decisions = jax.jit(gates.apply_gate)(params, inputs)
  _, _, logits = reference(params, inputs.astype(jnp.float32))
  assert decisions.dtype == jnp.float32
  np.testing.assert_array_equal(decisions, logits > 0)
  assert 0 < decisions.mean() < 1


def test_starts_open_for_all_inputs():
  params = gates.init_gate(jax.random.key(0), 5, 7)
  inputs = 100 * jax.random.normal(jax.random.key(1), (50, 5))
  decide = jax.jit(gates.apply_gate)
  np.testing.assert_array_equal(decide(params, inputs), np.ones((50, 7)))
  closed = gates.init_gate(jax.random.key(0), 5, 7, logit=-1.0)
  assert not decide(closed, inputs).any()


def test_gradient_is_that_of_the_surrogate():
  """∂g/∂z = σ'(z), carried through the perceptron by hand."""
  params = random_gate()
  inputs = jax.random.normal(jax.random.key(3), (6, 4, 5))
  price = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  objective = lambda p, x: jnp.sum(price * gates.apply_gate(p, x))
  gradient = jax.jit(jax.grad(objective, argnums=(0, 1)))
  found, found_inputs = gradient(params, inputs)
  pooled, units, logits = reference(params, inputs)
  p = 1 / (1 + np.exp(-logits))
  by_logits = price * p * (1 - p)
  by_units = by_logits @ np.asarray(params['logits']['kernel']).T * (units > 0)
  expected = {
    'hidden': {'kernel': pooled.T @ by_units, 'bias': by_units.sum(0)},
    'logits': {'kernel': units.T @ by_logits, 'bias': by_logits.sum(0)},
  }
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, found, expected)
  by_inputs = by_units @ np.asarray(params['hidden']['kernel']).T / 4
  close(found_inputs, np.repeat(by_inputs[:, None], 4, axis=1))


@hypothesis.given(DECISIONS, DECISIONS)
def test_polarization_is_the_variance_of_decisions(first, second):
  second = np.resize(second, (len(first), second.shape[1]))
  decisions = {'a': first, 'b': None, 'c': second}
  found = gates.polarization(gates.gate_means(decisions))
  variances = np.concatenate([first.var(0), second.var(0)])
  np.testing.assert_allclose(found, variances.mean(), rtol=1e-5, atol=1e-7)
  assert 0 <= found <= 0.25
  agree = all((column == column[0]).all() for column in [*first.T, *second.T])
  assert (found == 0) == agree
  assert gates.disagreement(decisions) == found


@pytest.mark.parametrize('count', [41, 55, 61, 82, 107])
def test_agreement_is_exact(count, mesh):
  """1 / 41 in float32 times 41 is not 1."""
  decisions = {'a': np.ones((count, 2), np.float32), 'b': np.ones((count, 1))}
  decisions['a'][:, 1] = 0
  for compute in (gates.disagreement, jax.jit(gates.disagreement)):
    assert compute(decisions) == 0
  means = jax.jit(gates.gate_means)(decisions)
  np.testing.assert_array_equal(means['a'], [1, 0])
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('d'))
  twice = jax.tree.map(lambda g: np.concatenate([g, g]), decisions)
  with jax.set_mesh(mesh):
    placed = jax.device_put(twice, sharding)
    assert jax.jit(gates.disagreement)(placed) == 0
  gradient = jax.grad(lambda g: gates.gate_means(g).sum())(decisions['a'])
  np.testing.assert_allclose(gradient, np.full((count, 2), 1 / count))


def test_what_no_gate_decides():
  with pytest.raises(ValueError, match=r"0 and 1 only, .* at 'a'"):
    gates.gate_means({'a': jnp.array([[0.5], [1.0]])})
  means = jax.jit(gates.gate_means)({'a': jnp.array([[0.5], [1.0]])})
  assert means['a'] == 0.75  # nobody can know
  with pytest.raises(ValueError, match=r"same examples.*'a': 2, 'b': 3"):
    gates.gate_means({'a': jnp.ones((2, 1)), 'b': jnp.ones((3, 1))})


@pytest.mark.parametrize(('num_open', 'sign'), [(2, -1), (5, 0), (8, 1)])
def test_polarization_moves_all_with_the_majority(num_open, sign):
  logits = jnp.asarray(np.linspace(-1, 1, 10), jnp.float32)
  logits = logits - jnp.sort(logits)[9 - num_open] - 0.01  # num_open above 0
  step = -jax.grad(
    lambda z: gates.polarization(
      {'gate': gates.gate_means(ste.unit_step(z, 'sigmoid'))}
    )
  )(logits)
  assert (logits > 0).sum() == num_open
  np.testing.assert_array_equal(np.sign(step), np.full(10, sign))


@hypothesis.given(DECISIONS, st.floats(0, 1))
def test_activity(decisions, target):
  means = gates.gate_means({'a': decisions, 'b': decisions[:, :1]})
  macs = {'a': 3e6, 'b': np.array([5e5])}
  costs = np.array([3e6] * decisions.shape[1] + [5e5])
  values = np.append(decisions.mean(0), decisions[:, 0].mean())
  share = (values * costs).sum() / costs.sum()
  np.testing.assert_allclose(gates.activity(means, macs), share, rtol=1e-5)
  np.testing.assert_allclose(gates.activity(means), values.mean(), rtol=1e-5)
  np.testing.assert_allclose(
    jax.jit(gates.activity)(means, macs, target=target),
    (share - target) ** 2,
    rtol=1e-3,
    atol=1e-6,
  )


@functools.partial(jax.jit, static_argnames='num_steps')
def settle(logits, target, penalty, num_steps=4000):
  """Descends on the two regularisers alone; the mean of each gate, and z."""
  num_gates = logits.shape[1]

  def loss(z):
    means = gates.gate_means(ste.unit_step(z, 'sigmoid'))
    return num_gates * (
      gates.polarization(means) + penalty * gates.activity(means, target=target)
    )

  def step(z, _):
    return z - 0.1 * len(z) * jax.grad(loss)(z), None

  z, _ = jax.lax.scan(step, logits, None, length=num_steps)
  return gates.gate_means(ste.unit_step(z, 'sigmoid')), jax.grad(loss)(z), z


@pytest.mark.parametrize('ratio', [0.55, 0.75, 0.95])
def test_exactly_the_target_share_is_open(ratio):
  """From random logits, for every m, if λ_p L / 2 < λ_s < λ_p L."""
  num_gates = 6
  logits = jax.random.normal(jax.random.key(0), (4, 13, num_gates))
  run = jax.jit(
    jax.vmap(jax.vmap(settle, in_axes=(0, None, None)), in_axes=(None, 0, None))
  )
  targets = jnp.arange(num_gates + 1) / num_gates
  means, gradients, z = run(logits, targets, ratio * num_gates)
  assert np.isin(means, (0, 1)).all()
  expected = np.arange(num_gates + 1)[:, None] * np.ones(4)
  np.testing.assert_array_equal(means.sum(-1), expected)
  assert (np.sign(z) == -np.sign(gradients)).all()  # there for good


def test_the_band_has_a_reason():
  """Below it one gate too many stays; above, one stays without a consensus."""
  logits = jnp.array([[0.3, 0.5, 0.7, -0.5]] * 10)
  for ratio, expected in ((0.4, 3), (0.6, 2)):
    means, _, _ = settle(logits, 0.5, ratio * 4)
    assert means.sum() == expected
  logits = jnp.stack([jnp.linspace(-1, 1, 11), -jnp.ones(11)], axis=1)
  for ratio, is_split in ((2.0, True), (0.8, False)):
    means, _, _ = settle(logits, 0.25, ratio * 2)
    assert (0.2 < means[0] < 0.8) == is_split


@hypothesis.given(DECISIONS)
def test_consensus_is_the_majority(decisions):
  found = gates.consensus({'a': decisions, 'b': None})
  counts = decisions.sum(0)
  np.testing.assert_array_equal(found['a'], counts > len(decisions) - counts)
  assert found['a'].dtype == bool
  assert found['b'] is None


def test_closed_channels_contribute_nothing():
  """Gates on inner channels act like the network without those channels."""
  rng = np.random.default_rng(0)
  x, first, second = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((8, 5), (5, 3), (3, 5))
  )
  decisions = np.asarray(jax.jit(gates.apply_gate)(random_gate(), x))
  assert 0 < decisions.mean() < 1
  gated = x + (np.maximum(x @ first, 0) * decisions) @ second
  for example, row, kept in zip(x, gated, decisions > 0, strict=True):
    inner = np.maximum(example @ first[:, kept], 0)
    np.testing.assert_allclose(
      row, example + inner @ second[kept], rtol=1e-4, atol=1e-5
    )


def test_means_are_over_all_devices(mesh):
  params = random_gate()
  inputs = jax.random.normal(jax.random.key(3), (8, 4, 5))

  def loss(params, inputs):
    means = gates.gate_means({'g': gates.apply_gate(params, inputs)})
    return gates.polarization(means) + gates.activity(means, target=0.5)

  compute = jax.jit(jax.value_and_grad(loss))
  expected = compute(params, inputs)
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('d'))
  with jax.set_mesh(mesh):
    found = compute(params, jax.device_put(inputs, sharding))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
    found,
    expected,
  )


def test_unequal_costs():
  """Weights of the polarization, its limit, and costs beyond float32."""
  means = {'a': jnp.array([0.5, 0.25, 1.0]), 'b': jnp.array([0.1])}
  costs = {'a': np.array([1.0, 2.0, 4.0]), 'b': 3.0}
  w = np.array([0.1, 0.2, 0.4, 0.3])
  v = w * np.array([0.25, 0.25, 0.4, 0.3])
  splits = np.array([0.25, 0.1875, 0.0, 0.09])
  for scale in (1.0, 1e39, 1e-46):
    scaled = {name: scale * cost for name, cost in costs.items()}
    found = gates.polarization(means, scaled)
    np.testing.assert_allclose(found, v @ splits / v.sum(), rtol=1e-6)
    np.testing.assert_allclose(gates.limit(means, scaled), 1 / v.sum(), 1e-6)
    np.testing.assert_allclose(gates.activity(means, scaled), 0.53, rtol=1e-6)
  found = jax.jit(gates.limit)(means, {'a': jnp.ones(3) * 1e36, 'b': 1e36})
  assert found == 4
  opened = {'a': jnp.ones(10)}
  assert gates.activity(opened, {'a': 1e38}) == pytest.approx(1)
  assert gates.polarization(means, dict.fromkeys(means, 7.0)) == (
    gates.polarization(means)
  )


def test_errors():
  key = jax.random.key(0)
  for arguments, name in (((0,), 'num_features'), ((3, 0), 'num_gates')):
    with pytest.raises(ValueError, match=f'{name} must be a whole number'):
      gates.init_gate(key, *arguments)
  with pytest.raises(ValueError, match='hidden must be a whole number'):
    gates.init_gate(key, 3, hidden=0)
  not_whole: Any = (3, None)
  with pytest.raises(ValueError, match='num_gates must be a whole number'):
    gates.init_gate(key, *not_whole)
  floats: Any = (3.0, np.float32(2))
  jax.tree.map(
    np.testing.assert_array_equal,
    gates.init_gate(key, *floats),
    gates.init_gate(key, 3, 2),
  )
  with pytest.raises(ValueError, match='logit must be a finite number'):
    gates.init_gate(key, 3, logit=float('nan'))
  for shape in ((5,), (2, 4)):
    with pytest.raises(ValueError, match=r'inputs must be .*5\].*got \('):
      gates.apply_gate(random_gate(), jnp.ones(shape))
  with pytest.raises(ValueError, match='gate_decisions holds no gate'):
    gates.gate_means({'a': None})
  with pytest.raises(ValueError, match='gate_means holds no gate'):
    gates.polarization({'a': jnp.zeros(0)})
  for bad in (jnp.ones(()), jnp.ones((0, 2))):
    with pytest.raises(ValueError, match=r"one example; got .* at 'a'"):
      gates.consensus({'a': bad, 'b': jnp.ones((2, 1))})
  means = {'a': jnp.ones(2), 'b': jnp.ones(1)}
  with pytest.raises(ValueError, match=r'target must be in \[0, 1\], got 2'):
    gates.activity(means, target=2)
  for costs, message in (
    ({'a': 1.0}, "got none for 'b'"),
    ({'a': 1.0, 'b': 0.0}, "> 0 for all gates; got 0.0 for 'b'"),
    ({'a': 1.0, 'b': np.inf}, "> 0 for all gates; got inf for 'b'"),
    ({'a': 'x', 'b': 1.0}, "> 0 for all gates; got 'x' for 'a'"),
    ({'a': 1.0, 'b': 1.0, 'c': 1.0}, 'must fit gate_means'),
    ({'a': np.ones(3), 'b': 1.0}, r"got \(3,\) for the \(2,\) of 'a'"),
  ):
    with pytest.raises(ValueError, match=message):
      gates.activity(means, costs)
