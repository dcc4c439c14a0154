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
"""Rules over filters: by differentiation, and in a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import filters
from experiments.models import resnet
import scl_jax

MODEL = resnet.ResNet(8, num_classes=3)
LAYERS = MODEL.inner_filters()


@pytest.fixture(scope='module')
def weights():
  images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  shapes = jax.eval_shape(MODEL.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), shapes['params']
  )


class Spy:
  """A rule that keeps what it is given."""

  def __init__(self):
    self.seen = []

  def rule(self):
    def update(grads, state, weights):
      self.seen.append((grads, weights))
      return state

    inner = scl_jax.random_pruning(0.5, key=jax.random.key(0))
    return scl_jax.MaskRule(inner.init, update)


def test_a_filter_is_one_connection(weights):
  """Weight times gradient is the derivative by what multiplies all of it."""
  spy = Spy()
  rule = filters.over_filters(spy.rule(), LAYERS)
  rng = np.random.default_rng(1)
  loss_grads = jax.tree.map(
    lambda w: rng.normal(size=w.shape).astype(np.float32), weights
  )
  rule.update(loss_grads, rule.init(weights), weights)
  ((grads, norms),) = spy.seen

  def linear(factor):  # its gradient by params is loss_grads
    scaled = jax.tree.map(lambda w: w, weights)
    for conv, norm in LAYERS.items():
      parts = ((conv, 'kernel'), (norm, 'scale'), (norm, 'bias'))
      for name, leaf in parts:
        scaled[name] = {
          **scaled[name], leaf: scaled[name][leaf] * factor[conv]
        }  # fmt: skip
    products = jax.tree.map(lambda w, g: jnp.sum(w * g), scaled, loss_grads)
    return sum(jax.tree.leaves(products))

  ones = {c: jnp.ones(weights[c]['kernel'].shape[-1]) for c in LAYERS}
  expected = jax.jit(jax.grad(linear))(ones)
  assert set(grads) == set(norms) == {'Conv_1', 'Conv_3', 'Conv_5'}
  for conv in LAYERS:
    flat = weights[conv]['kernel'].reshape(-1, len(ones[conv]))
    size = norms[conv]['kernel'][:, 0]
    np.testing.assert_allclose(size, np.linalg.norm(flat, axis=0), rtol=1e-5)
    found = grads[conv]['kernel'][:, 0] * size
    np.testing.assert_allclose(found, expected[conv], rtol=1e-4, atol=1e-4)


def test_closed_filters_are_removed(weights):
  """The smallest norms of each layer go, and BatchNorm with them."""
  inner = scl_jax.gradual_magnitude(0.25, end_step=0, allocation='uniform')
  tx = scl_jax.sparsify(optax.sgd(0.0), filters.over_filters(inner, LAYERS))
  state = tx.init(weights)
  zeros = jax.tree.map(jnp.zeros_like, weights)
  updates, state = jax.jit(tx.update)(zeros, state, weights)
  params = optax.apply_updates(weights, updates)
  masks = scl_jax.get_masks(state)
  for conv, norm in LAYERS.items():
    kernel = weights[conv]['kernel']
    size = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), axis=0)
    kept = size >= np.sort(size)[-kernel.shape[-1] // 4]
    assert kept.sum() == kernel.shape[-1] // 4
    np.testing.assert_array_equal(params[conv]['kernel'], kernel * kept)
    for leaf in ('scale', 'bias'):
      np.testing.assert_array_equal(masks[norm][leaf], kept)
      np.testing.assert_array_equal(
        params[norm][leaf], weights[norm][leaf] * kept
      )
  assert masks['Dense_0']['kernel'] is None


def test_errors(weights):
  with pytest.raises(ValueError, match='got one with `effective`'):
    filters.over_filters(scl_jax.soft_threshold(1e-3), LAYERS)
  rule = scl_jax.random_pruning(0.5, key=jax.random.key(0))
  misspelt = {**LAYERS, 'Conv_99': 'BatchNorm_1'}
  with pytest.raises(ValueError, match=r'layers of the params, .*got Conv_99'):
    filters.over_filters(rule, misspelt).init(weights)
