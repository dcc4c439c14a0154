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

    task + λ_p polarization(means, costs) + λ_s activity(means, costs)

where the polarization is 0 only if each gate decides alike for all examples,
the consensus, and the activity prices what is open. Then `consensus` says what
to remove, and the gates go with it.

    params = gates.init_gate(key, num_features=16)
    decisions = gates.apply_gate(params, x)               # [batch, 1], 0 or 1
    y = shortcut(x) + decisions[:, None, None] * branch(x)

Where the batch is sharded under `jax.jit`, means are over all of it; under
`shard_map` or `pmap` take `jax.lax.pmean` of `gate_means` first.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import core
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from scl_jax import checks
from scl_jax import gate_costs
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
  checks.check_key('key', key)
  num_features = _whole('num_features', num_features)
  num_gates = _whole('num_gates', num_gates)
  hidden = _whole('hidden', hidden)
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


def _whole(name: str, value: Any) -> int:
  """A size as an int, such as of 3.0, which is no shape."""
  checks.check_whole(name, value, 1)
  return int(value)


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

  It is exactly 1, or 0, where all examples agree.

  Args:
    gate_decisions: Arrays of {0, 1}, [examples, *gates], of the same examples,
      at least one; `None` where there are no gates.

  Returns:
    A tree like it of float32 arrays [*gates].

  Raises:
    ValueError: If there is no gate or no example, leaves have different numbers
      of examples, or hold something else than 0 and 1.

  Example:
    >>> gate_means({'block_1': jnp.array([[1, 0], [1, 1]])})
    {'block_1': Array([1. , 0.5], dtype=float32)}
  """
  _gates('gate_decisions', gate_decisions)
  counts = {}
  for path, leaf in tree_lib.zip_leaves(gate_decisions):
    if not jnp.ndim(leaf) or not jnp.shape(leaf)[0]:
      raise ValueError(
        'gate_decisions must be [examples, *gates] with at least one example; '
        f'got {jnp.shape(leaf)} at {path!r}.'
      )
    if not _is_binary(leaf):
      raise ValueError(
        'gate_decisions must hold 0 and 1 only, as apply_gate gives them; got '
        f'other values at {path!r}.'
      )
    counts[path] = jnp.shape(leaf)[0]
  if len(set(counts.values())) > 1:
    raise ValueError(
      'gate_decisions must be of the same examples for all gates; got these '
      f'numbers of them: {counts}.'
    )
  return jax.tree.map(
    lambda g: _share_open(jnp.asarray(g).astype(jnp.float32)), gate_decisions
  )


def _is_binary(decisions: ArrayLike) -> bool:
  """Whether they are 0 and 1, as far as this process can know."""
  if isinstance(decisions, core.Tracer):
    return True
  if isinstance(decisions, jax.Array) and not decisions.is_fully_addressable:
    return True
  values = np.asarray(decisions)  # NumPy, which is not traced under jit
  return bool(np.all((values == 0) | (values == 1)))


@jax.custom_jvp
def _share_open(decisions: jax.Array) -> jax.Array:
  """The mean over examples, with its gradient; 1 without rounding."""
  total = jnp.sum(decisions, axis=0)
  # XLA multiplies by 1 / count, which is not 1 for 41 of 41 examples.
  return jnp.where(total == len(decisions), 1.0, total / len(decisions))


@_share_open.defjvp
def _share_open_jvp(primals, tangents):
  return _share_open(*primals), jnp.mean(*tangents, axis=0)


def polarization(gate_means: PyTree, costs: PyTree | None = None) -> jax.Array:
  r"""How far the gates are from a consensus.

  .. math::
    \sum_l v_l \bar g_l (1 - \bar g_l), \quad
    v_l = \frac1Z w_l \max(w_l, 1/L), \quad Z = \sum_k w_k \max(w_k, 1/L)

  over all L gates of the shares w of the costs; with equal costs v = 1 / L, and
  this is the mean variance of a decision over the examples. In [0, 1/4], and 0
  only if every gate decides alike for all examples. Descent opens a gate that
  is open for most and closes one that is closed for most; at one half exactly
  it does neither. Why the weights are these: see `activity`.

  Args:
    gate_means: From `gate_means`.
    costs: As for `activity`, where its target is the other price; `None` for
      the plain mean.

  Returns:
    A float32 scalar.

  Raises:
    ValueError: If there is no gate, or costs do not fit.

  Example:
    >>> polarization({'block_1': jnp.array([1.0, 0.5])})
    Array(0.125, dtype=float32)
  """
  means = _gates('gate_means', gate_means)
  weights = _weights(gate_means, costs)
  total = jnp.zeros((), jnp.float32)
  for g, v in zip(means, weights, strict=True):
    total += jnp.sum(g * (1 - g) * v)
  return total / _sum(weights)


def activity(
  gate_means: PyTree,
  costs: PyTree | None = None,
  *,
  target: ArrayLike | None = None,
) -> jax.Array:
  r"""What the open gates cost, or how far that is from a target.

  .. math::
    A = \sum_l w_l \bar g_l, \quad w_l = \frac{c_l}{\sum_k c_k}

  and :math:`(A - \tau)^2` with a target share τ. Priced at λ_s beside the
  `polarization` of the same costs at λ_p, a gate that moves alone has the
  curvature :math:`2 (\lambda_s w_l^2 - \lambda_p v_l)`: below the `limit`,
  λ_s = a λ_p / Z with a < 1, none settles half open. In a consensus an open
  gate closes if :math:`A - \tau > \lambda_p v_l / (2 \lambda_s w_l)`, which is
  :math:`\max(w_l, 1/L) / (2a)`, and a closed one opens if τ - A is. So for
  1/2 < a < 1 the two settle by themselves where no other decision of one gate,
  taken as no cheaper than the mean, would come nearer to τ by much; with equal
  costs and τ = m / L, at exactly m open gates. Equal weights would let
  cheap gates ignore any gap, and w² alone would hardly polarise them. All of
  that is our derivation.

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
  checks.check_scalar(
    'target', target, lambda x: 0 <= x <= 1, 'in [0, 1]', or_none=True
  )
  ratios = gate_costs.ratios(gate_means, costs)
  count = sum(g.size for g in means)
  share = jnp.zeros((), jnp.float32)
  for g, ratio in zip(means, ratios, strict=True):
    share += jnp.sum(g * (ratio / count))
  if target is None:
    return share
  return jnp.square(share - jnp.asarray(target, jnp.float32))


def limit(gate_means: PyTree, costs: PyTree | None = None) -> jax.Array:
  """1 / Z, the λ_s / λ_p above which gates can settle half open.

  Args:
    gate_means: As for `activity`.
    costs: As for `activity`.

  Returns:
    A float32 scalar; L with equal costs.

  Raises:
    ValueError: If there is no gate, or costs do not fit.

  Example:
    >>> limit({'block_1': jnp.array([1.0, 0.5])})
    Array(2., dtype=float32)
  """
  count = sum(g.size for g in _gates('gate_means', gate_means))
  return count**2 / _sum(_weights(gate_means, costs))


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


def _weights(gate_means: PyTree, costs: PyTree | None) -> list[jax.Array]:
  """L² Z v for each gate, one array a leaf; 1 where all cost the same."""
  ratios = gate_costs.ratios(gate_means, costs)
  return [ratio * jnp.maximum(ratio, 1.0) for ratio in ratios]


def _sum(leaves: Sequence[jax.Array]) -> jax.Array:
  return sum((jnp.sum(leaf) for leaf in leaves), jnp.zeros((), jnp.float32))


def _gates(name: str, tree: PyTree) -> list[jax.Array]:
  """The leaves, float32; raises if they hold nothing."""
  leaves = [
    jnp.asarray(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(tree)
  ]
  if not sum(leaf.size for leaf in leaves):
    raise ValueError(f'{name} holds no gate.')
  return leaves
