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
"""Batches in parts and on threads, where the function lets that be."""

import engine_checks
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax.inference import network as network_lib

pytest.importorskip('numba')

W = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def sparse_and_in_parts(monkeypatch):
  engine_checks.sparse_and_in_parts(monkeypatch)


@pytest.mark.parametrize(
  ('size', 'cores', 'part', 'threads'),
  [(96, 1, 8, 1), (9, 1, None, 1), (192, 2, 8, 2), (24, 2, 12, 2)],
)
def test_parts_of_a_batch(monkeypatch, size, cores, part, threads):
  monkeypatch.setattr(network_lib, '_cores', lambda: cores)
  fn, x = lambda p, x: jnp.tanh(x @ p), np.ones((1, 6), np.float32)
  network = engine_checks.check(fn, jnp.asarray(W), None, x, batch_sizes=[size])
  (plan,) = network.plans.values()
  assert (plan.part, plan.threads) == (part, threads)


@pytest.mark.parametrize(
  'fn',
  [
    lambda p, x: x @ p - x.mean(0),
    lambda p, x: (x @ p).mean(0),
    lambda p, x: (x @ p, (x @ p).mean()),
  ],
)
def test_no_parts_where_examples_mix(monkeypatch, fn):
  monkeypatch.setattr(network_lib, '_cores', lambda: 2)
  x, size = np.ones((1, 6), np.float32), 2 * network_lib.PARTS[0]
  network = engine_checks.check(fn, jnp.asarray(W), None, x, batch_sizes=[size])
  assert network.plans[((size, 6),)].part is None


def test_no_parts_where_the_function_takes_one_size_of_batch(monkeypatch):
  monkeypatch.setattr(network_lib, '_cores', lambda: 2)
  rows = jnp.asarray(np.random.default_rng(0).normal(size=(64, 6)), jnp.float32)
  fn = lambda p, x: jnp.tanh(x @ p['w'] + p['rows'])
  params = {'w': jnp.asarray(W), 'rows': rows}
  x = np.ones((64, 6), np.float32)
  network = engine_checks.check(fn, params, None, x, batch_sizes=[64])
  assert network.plans[((64, 6),)].part is None


def test_parts_of_one_example_that_lose_their_axis(monkeypatch):
  monkeypatch.setattr(network_lib, '_cores', lambda: 2)
  fn = lambda p, x: jnp.squeeze(x @ p)
  x = np.ones((2, 6), np.float32)
  engine_checks.check(fn, jnp.asarray(W[:, :1]), None, x, batch_sizes=[2])
