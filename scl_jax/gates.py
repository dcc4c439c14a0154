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
r"""Gates that agree on a sub-network while it trains.

A reconstruction of "Learning a Consensus Sub-Network with Polarization
Regularization and One Pass Training" (arXiv 2302.10798) from its abstract: no
code was published, and the equations here are ours. No number of the paper is
reproduced by them.

A gate looks at an example and opens or closes a part of the network for it, a
residual block or channels inside one. With :math:`\bar g_l` the share of
examples for which gate l is open, the objective is

    task + penalty * polarization(means) + penalty * activity(means)

where the polarization is 0 only if each gate decides alike for all examples,
the consensus, and the activity prices what is open. Then `consensus` says what
to remove, and the gates go with it.

    params = gates.init_gate(key, num_features=16)
    decisions = gates.apply_gate(params, x)               # [batch, 1], 0 or 1
    y = shortcut(x) + decisions[:, None, None] * branch(x)

Where the batch is sharded under `jax.jit`, means are over all of it; under
`shard_map` or `pmap` take `jax.lax.pmean` of `gate_means` first.
"""

from typing import Any

import jax
from jax import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import checks
from scl_jax import ste
from scl_jax import tree as tree_lib

PyTree = tree_lib.PyTree


def init_gate(
  key: jax.Array,
  num_features: int,
  num_gates: int = 1,
  *,
  hidden: int = 16,
  logit: float = 1.0,
) -> dict[str, Any]:
  """Parameters of the perceptron that decides for one block.

  It starts with the same logit for every input, so with `logit > 0` the network
  starts as the one without gates. Its biases should not decay.

  Args:
    key: A key of `jax.random`.
    num_features: Channels of the block's input.
    num_gates: 1 to gate the block, or the number of channels to gate.
    hidden: Units of the hidden layer.
    logit: What is compared with 0, at the start.

  Returns:
    A dict of `hidden` and `logits`, each with `kernel` and `bias`, float32.

  Raises:
    ValueError: If a number is out of range.
  """
  checks.check_whole('num_features', num_features, 1)
  checks.check_whole('num_gates', num_gates, 1)
  checks.check_whole('hidden', hidden, 1)
  checks.check_scalar('logit', logit, lambda x: True, 'a finite number')
  return {
    'hidden': {
      'kernel': jax.nn.initializers.he_normal()(
        key, (num_features, hidden), jnp.float32
      ),
      'bias': jnp.zeros(hidden, jnp.float32),
    },
    'logits': {
      'kernel': jnp.zeros((hidden, num_gates), jnp.float32),
      'bias': jnp.full(num_gates, logit, jnp.float32),
    },
  }


def apply_gate(params: dict[str, Any], inputs: ArrayLike) -> jax.Array:
  r"""What the gates of one block decide for each example.

  .. math::
    z = W_2 \, \mathrm{relu}(W_1 \, \mathrm{pool}(x) + b_1) + b_2, \quad
    p = \sigma(z), \quad g = [p > 1/2]

  where pool is the mean over positions. The backward pass takes
  :math:`\partial g / \partial p = 1`, so
  :math:`\partial g / \partial z = \sigma'(z)`.

  Args:
    params: From `init_gate`.
    inputs: The block's input, [examples, *positions, features].

  Returns:
    Decisions, float32 [examples, gates] of 0 and 1.

  Raises:
    ValueError: If the shapes do not fit.

  Example:
    >>> params = init_gate(jax.random.key(0), num_features=3)
    >>> apply_gate(params, jnp.ones((2, 8, 8, 3)))
    Array([[1.],
           [1.]], dtype=float32)
  """
  inputs = jnp.asarray(inputs)
  first, second = params['hidden'], params['logits']
  num_features = first['kernel'].shape[0]
  if inputs.ndim < 2 or inputs.shape[-1] != num_features:
    raise ValueError(
      f'inputs must be [examples, *positions, {num_features}], as the gate was '
      f'made for {num_features} features; got {inputs.shape}.'
    )
  pooled = jnp.mean(
    inputs.astype(jnp.float32), axis=tuple(range(1, inputs.ndim - 1))
  )
  units = pooled @ first['kernel'] + first['bias'][None]
  logits = jax.nn.relu(units) @ second['kernel'] + second['bias'][None]
  # The step at z = 0 is the one at p = 1/2, without p's rounding.
  return ste.unit_step(logits, 'sigmoid')


def gate_means(gate_decisions: PyTree) -> PyTree:
  """The share of examples for which each gate is open.

  Args:
    gate_decisions: Arrays of {0, 1}, [examples, *gates], at least one example;
      `None` where there are no gates.

  Returns:
    A tree like it of float32 arrays [*gates].

  Raises:
    ValueError: If there is no gate or no example.

  Example:
    >>> gate_means({'block_1': jnp.array([[1, 0], [1, 1]])})
    {'block_1': Array([1. , 0.5], dtype=float32)}
  """
  _gates('gate_decisions', gate_decisions)
  for path, leaf in tree_lib.zip_leaves(gate_decisions):
    if not jnp.ndim(leaf) or not jnp.shape(leaf)[0]:
      raise ValueError(
        'gate_decisions must be [examples, *gates] with at least one example; '
        f'got {jnp.shape(leaf)} at {path!r}.'
      )
  return jax.tree.map(
    lambda g: jnp.mean(jnp.asarray(g).astype(jnp.float32), axis=0),
    gate_decisions,
  )


def polarization(gate_means: PyTree) -> jax.Array:
  r"""How far the gates are from a consensus.

  .. math::
    \frac1L \sum_l \bar g_l (1 - \bar g_l)

  over all L gates: the mean variance of a decision over the examples. In
  [0, 1/4], and 0 only if every gate decides alike for all examples. Descent
  opens a gate that is open for most and closes one that is closed for most; at
  one half exactly it does neither.

  Args:
    gate_means: From `gate_means`.

  Returns:
    A float32 scalar.

  Raises:
    ValueError: If there is no gate.

  Example:
    >>> polarization({'block_1': jnp.array([1.0, 0.5])})
    Array(0.125, dtype=float32)
  """
  means = _gates('gate_means', gate_means)
  total = jnp.zeros((), jnp.float32)
  for g in means:
    total += jnp.sum(g * (1 - g))
  return total / sum(g.size for g in means)


def activity(
  gate_means: PyTree,
  costs: PyTree | None = None,
  *,
  target: ArrayLike | None = None,
) -> jax.Array:
  r"""What the open gates cost, or how far that is from a target.

  .. math::
    A = \sum_l w_l \bar g_l, \quad w_l = \frac{c_l}{\sum_k c_k}

  and :math:`(A - \tau)^2` with a target share τ. With equal costs, the
  polarization priced at :math:`\lambda_p` and this at :math:`\lambda_s`, they
  settle by themselves in a consensus with the m open gates of τ = m / L if
  :math:`\lambda_p L / 2 < \lambda_s < \lambda_p L` (our derivation). Below, a
  gate too many can stay; above, for a τ between two such shares, a gate can
  settle where it is open for some examples.

  Args:
    gate_means: From `gate_means`.
    costs: c, what each gate closes, in MACs say: a tree like `gate_means` of
      numbers > 0 or arrays that broadcast to its leaves. `None`: all the same.
    target: τ in [0, 1], the share of the costs that shall be open; `None` for
      as little as the task allows.

  Returns:
    A float32 scalar in [0, 1].

  Raises:
    ValueError: If there is no gate, or an argument does not fit.

  Example:
    >>> means = {'block_1': jnp.array([1.0]), 'block_2': jnp.array([0.5])}
    >>> activity(means, {'block_1': 3e6, 'block_2': 1e6})
    Array(0.875, dtype=float32)
    >>> activity(means, target=0.5)
    Array(0.0625, dtype=float32)
  """
  means = _gates('gate_means', gate_means)
  checks.check_scalar('target', target, lambda x: 0 <= x <= 1, 'in [0, 1]')
  if costs is None:
    costs = jax.tree.map(lambda _: 1.0, gate_means)
  shares = _shares(gate_means, costs)
  share = jnp.zeros((), jnp.float32)
  for g, w in zip(means, shares, strict=True):
    share += jnp.sum(g * w)
  if target is None:
    return share
  return jnp.square(share - jnp.asarray(target, jnp.float32))


def consensus(gate_decisions: PyTree) -> PyTree:
  """What is open in the static network: what is open for most examples.

  Args:
    gate_decisions: Those of all training examples, in evaluation mode, as for
      `gate_means`.

  Returns:
    A tree like it of bool arrays [*gates]; False at one half exactly.

  Raises:
    ValueError: If there is no gate or no example.

  Example:
    >>> consensus({'block_1': jnp.array([[1, 0], [1, 1]])})
    {'block_1': Array([ True, False], dtype=bool)}
  """
  return jax.tree.map(lambda g: g > 0.5, gate_means(gate_decisions))


def disagreement(gate_decisions: PyTree) -> jax.Array:
  """The `polarization` of decisions, to be reported with each `consensus`.

  0 says that the static network computes what the one with gates does, on
  these examples.

  Args:
    gate_decisions: As for `consensus`.

  Returns:
    A float32 scalar in [0, 1/4].

  Raises:
    ValueError: If there is no gate or no example.
  """
  return polarization(gate_means(gate_decisions))


def _shares(gate_means: PyTree, costs: PyTree) -> list[jax.Array]:
  """What each gate closes, as shares of the sum; one array a leaf."""
  try:
    rows = tree_lib.zip_leaves(gate_means, costs)
  except ValueError as error:
    raise ValueError(f'costs must fit gate_means. {error}') from error
  spread = []
  for path, means, cost in rows:
    is_known = not isinstance(cost, core.Tracer)
    if cost is None or (is_known and not _is_positive(cost)):
      raise ValueError(
        'costs must hold finite numbers > 0 for all gates; got '
        f'{"none" if cost is None else cost} for {path!r}.'
      )
    cost = jnp.asarray(cost, jnp.float32)
    try:
      spread.append(jnp.broadcast_to(cost, jnp.shape(means)))
    except ValueError as error:
      raise ValueError(
        f'costs must broadcast to the gates; got {cost.shape} for the '
        f'{jnp.shape(means)} of {path!r}.'
      ) from error
  total = sum(jnp.sum(cost) for cost in spread)
  return [cost / total for cost in spread]


def _is_positive(cost: ArrayLike) -> bool:
  return bool(np.all(np.isfinite(cost)) and np.all(np.asarray(cost) > 0))


def _gates(name: str, tree: PyTree) -> list[jax.Array]:
  """The leaves, float32; raises if they hold nothing."""
  leaves = [
    jnp.asarray(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)
  ]
  if not sum(leaf.size for leaf in leaves):
    raise ValueError(f'{name} holds no gate.')
  return leaves
