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
"""What sparse inference refuses, and says of it."""

from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import inference

pytest.importorskip('numba')

W = np.random.default_rng(2).normal(size=(6, 6)).astype(np.float32)
UNSUPPORTED = {
  'sort': lambda p, x: jnp.sort(x @ p),
  'gather': lambda p, x: (x @ p)[jnp.argsort(p[0])],
  'while': lambda p, x: lax.while_loop(lambda h: h.sum() > 0, jnp.sin, x @ p),
  r'conv_general_dilated.*\(lhs_dilation\)': lambda p, x: lax.conv_transpose(
    x[None, :, :, None], p[:, :, None, None], (2, 2), 'SAME'
  ),
  'conv_general_dilated.* depends on inputs': lambda p, x: lax.conv(
    p[None, None], x[None, None], (1, 1), 'SAME'
  ),
  'conv_general_dilated.* of these dtypes': lambda p, x: lax.conv(
    *(a.astype(jnp.bfloat16)[None, None] for a in (x, p)), (1, 1), 'SAME'
  ),
}


@pytest.mark.parametrize('name', UNSUPPORTED)
def test_unsupported_operations_are_named(name):
  x = np.ones((6, 6), np.float32)
  with pytest.raises(inference.UnsupportedError, match=name):
    inference.compile(UNSUPPORTED[name], jnp.asarray(W), None, x)


def test_errors():
  fn, x = lambda p, x: x @ p, np.ones((2, 6), np.float32)
  network = inference.compile(fn, jnp.asarray(W), None, x)
  with pytest.raises(ValueError, match=r'\(\(2, 6\),\); got \(\(3, 6\),\)'):
    network(np.ones((3, 6), np.float32))
  with pytest.raises(ValueError, match='must have a batch as axis 0'):
    inference.compile(
      lambda p, x: x * p, jnp.ones(3), None, 1.0, batch_sizes=[1]
    )
  with pytest.raises(ArithmeticError, match='more than the tolerance -1'):
    inference.compile(fn, jnp.asarray(W), None, x, tolerance=-1.0)
