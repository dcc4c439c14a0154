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
"""A network of which two hidden units are dead, for tests of compaction."""

import jax
import jax.numpy as jnp
import numpy as np

X = jax.random.normal(jax.random.key(0), (4, 6))
KEEP = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0])  # of five hidden units


def net(activation=jnp.tanh):
  rng = np.random.default_rng(0)
  params = {
    'w': jnp.asarray(rng.normal(size=(6, 5)) * KEEP, jnp.float32),
    'b': jnp.asarray(rng.normal(size=5), jnp.float32),
    'v': jnp.asarray(rng.normal(size=(5, 2)), jnp.float32),
    'c': jnp.asarray(rng.normal(size=2), jnp.float32),
  }
  fn = lambda p, x: activation(x @ p['w'] + p['b']) @ p['v'] + p['c']
  return fn, params


def close(a, b, **kwargs):
  np.testing.assert_allclose(a, b, **{'atol': 1e-5, **kwargs})
