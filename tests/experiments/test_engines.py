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
"""Engines that are compared, and the table of latencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import engines
from experiments.models import lenet

pytest.importorskip('numba')


def _network():
  images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
  model = lenet.LeNet300()
  params = model.init(jax.random.key(0), images)['params']
  masks = jax.tree.map(
    lambda p: (
      jnp.asarray(np.arange(p.size).reshape(p.shape) % 5 == 0, p.dtype)
      if p.ndim > 1
      else None
    ),
    params,
  )
  params = jax.tree.map(
    lambda p, m: p if m is None else p * m, params, masks,
    is_leaf=lambda x: x is None,
  )  # fmt: skip
  fn = lambda params, images: model.apply({'params': params}, images)
  return fn, params, masks, images


def test_engines_agree_and_are_timed():
  network = _network()
  images = network[-1]
  made = {
    name: engines.make(name, *network, [len(images)])
    for name in ('jax', 'jax_compact', 'scipy', 'scl_jax')
  }
  for engine in made.values():
    np.testing.assert_allclose(
      engine(images), made['jax'](images), rtol=1e-4, atol=1e-5
    )
  found = engines.measure(made, images, rounds=2)
  assert found['jax']['ratio'] == 1
  assert all(row['milliseconds'] > 0 for row in found.values())
  row = {'network': 'net', 'density': 0.2, 'batch_size': 4, 'engines': found}
  lines = engines.table([row]).splitlines()
  assert lines[0] == (
    '| network | density | batch | jax | jax_compact | scipy | scl_jax |'
  )
  assert lines[2].startswith('| net | 20.0% | 4 | ')


def test_what_sparse_inference_does_not_run():
  """Convolutions in bfloat16: the other engines are measured all the same."""
  kernel = jnp.ones((3, 3, 1, 2), jnp.bfloat16)
  fn = lambda params, images: jax.lax.conv_general_dilated(
    images.astype(jnp.bfloat16), params['kernel'], (1, 1), 'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip
  images = np.ones((2, 6, 6, 1), np.float32)
  params, masks = {'kernel': kernel}, {'kernel': jnp.ones_like(kernel)}
  assert engines.make('scl_jax', fn, params, masks, images, [2]) is None


def test_scipy_is_for_perceptrons():
  fn, params, masks, images = _network()
  other = lambda params, images: jnp.tanh(fn(params, images))
  assert engines.make('scipy', other, params, masks, images, [4]) is None
  params = {**params, 'scale': jnp.ones(1)}
  assert engines.make('scipy', fn, params, masks, images, [4]) is None
