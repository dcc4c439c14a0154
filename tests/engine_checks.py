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
"""Sparse inference, compiled without a clock and compared with JAX."""

import jax
import jax.numpy as jnp
import numpy as np

import scl_jax
from scl_jax import inference
from scl_jax.inference import network as network_lib
from scl_jax.inference import program as program_lib


class Clock:
  """In the place of `timing`: which way is fastest is decided here."""

  def __init__(self, *, last):
    self.last = last

  def lower_quartiles(self, ways):
    for way in ways:
      way()
    times = [1.0 + i for i in range(len(ways))]
    return times[::-1] if self.last else times


def sparse_and_in_parts(monkeypatch):
  """Takes the last ways: sparse, and the engine in parts, on one core."""
  monkeypatch.setattr(program_lib, 'timing', Clock(last=True))
  monkeypatch.setattr(network_lib, 'timing', Clock(last=True))
  monkeypatch.setattr(network_lib, '_cores', lambda: 1)


def random_params(rng, params):
  """None of them 0, as biases would be; variances are positive."""
  return jax.tree_util.tree_map_with_path(
    lambda path, p: jnp.asarray(
      np.abs(rng.normal(size=p.shape)) + 0.5
      if 'var' in jax.tree_util.keystr(path)
      else rng.normal(size=p.shape) / np.sqrt(np.prod(p.shape[:-1]) or 1),
      jnp.float32,
    ),
    params,
  )


def masks_like(rng, params, density=0.3):
  return jax.tree.map(
    lambda p: (
      jnp.asarray(rng.random(p.shape) < density, p.dtype)
      if p.ndim > 1
      else None
    ),
    params,
  )


def check(fn, params, masks, *inputs, **kwargs):
  """Compiles, and compares on inputs that compile has not seen."""
  network = inference.compile(fn, params, masks, *inputs, **kwargs)
  rng = np.random.default_rng(1)
  for shapes in network.plans:
    fresh = [rng.normal(size=s).astype(np.float32) for s in shapes]
    wanted = jax.jit(fn)(scl_jax.apply_masks(params, masks), *fresh)
    outputs = network(*fresh)
    assert jax.tree.structure(outputs) == jax.tree.structure(wanted)
    for output, expected in zip(
      jax.tree.leaves(outputs), jax.tree.leaves(wanted), strict=True
    ):
      assert isinstance(output, np.ndarray)
      assert output.dtype == expected.dtype
      atol = 1e-5 * np.abs(expected).max()
      np.testing.assert_allclose(output, expected, rtol=0, atol=atol)
  return network
