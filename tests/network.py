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
"""A network of two layers to train, and the optimizers to train it with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import scl_jax


def make_params(key=0, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(key), 3)
  return {
    'Dense_0': {
      'kernel': jax.random.normal(keys[0], (6, 5)).astype(dtype),
      'bias': jnp.zeros(5, dtype),
    },
    'Dense_1': {
      'kernel': jax.random.normal(keys[1], (5, 3)).astype(dtype),
      'bias': jnp.zeros(3, dtype),
    },
  }


INPUTS = jax.random.normal(jax.random.key(7), (16, 6))
TARGETS = jax.random.normal(jax.random.key(8), (16, 3))


def loss_fn(params, inputs=INPUTS):
  inputs = inputs.astype(params['Dense_0']['kernel'].dtype)
  x = inputs @ params['Dense_0']['kernel'] + params['Dense_0']['bias']
  x = jnp.tanh(x)
  y = x @ params['Dense_1']['kernel'] + params['Dense_1']['bias']
  return jnp.mean((y - TARGETS.astype(y.dtype)) ** 2).astype(jnp.float32)


def strong_rule(**kwargs):
  """Prunes about half of a small network within twenty steps."""
  return scl_jax.scl(
    **{'penalty': 0.15, 'mask_optimizer': optax.sgd(0.1), **kwargs}
  )


def train(tx, params, steps, loss=loss_fn):
  @jax.jit
  def step(params, state):
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state, history = tx.init(params), []
  for _ in range(steps):
    params, state = step(params, state)
    history.append((params, state))
  assert step._cache_size() == 1  # no step compiles again
  return params, state, history


def labels(params):
  return jax.tree.map(lambda p: 'matrix' if p.ndim > 1 else 'vector', params)


OPTIMIZERS = {
  'sgd': lambda: optax.sgd(0.05),
  'momentum': lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
  'adam': lambda: optax.adam(1e-2),
  'adamw': lambda: optax.adamw(1e-2, weight_decay=0.1),
  'lion': lambda: optax.lion(1e-3, weight_decay=0.1),
  'muon': lambda: optax.contrib.muon(1e-2),
  'adafactor': lambda: optax.adafactor(1e-2, min_dim_size_to_factor=2),
  'clipped': lambda: optax.chain(
    optax.clip_by_global_norm(0.1), optax.adam(1e-2)
  ),
  'partition': lambda: optax.partition(
    {'matrix': optax.adam(1e-2), 'vector': optax.sgd(0.1)}, labels
  ),
  'masked': lambda: optax.masked(
    optax.adam(1e-2), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
  ),
  'multi_steps': lambda: optax.MultiSteps(optax.adam(1e-2), 3),
  'scheduled': lambda: optax.inject_hyperparams(optax.adam)(
    optax.cosine_decay_schedule(1e-2, 20)
  ),
}


def assert_pruned_are_zero(params, state):
  masks = scl_jax.get_masks(state)
  for p, m in zip(
    jax.tree.leaves(params),
    jax.tree.structure(params).flatten_up_to(masks),
    strict=True,
  ):
    if m is not None:
      assert set(np.unique(m)) <= {0.0, 1.0}
      pruned = np.asarray(p, np.float32)[np.asarray(m) == 0]
      np.testing.assert_array_equal(pruned, 0.0)


def kernels(tree):
  return [np.asarray(w) for w in jax.tree.leaves(tree) if w.ndim > 1]


def one_step(tx, params, state):
  grads = jax.grad(loss_fn)(params)
  updates, state = tx.update(grads, state, params)
  return optax.apply_updates(params, updates), state
