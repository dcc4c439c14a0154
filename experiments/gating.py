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
"""Training with gates towards a consensus, and the static network of a run.

A reconstruction of the consensus sub-network (arXiv 2302.10798), whose code and
equations were not published: see `scl_jax.gates`. The objective of a step is

    task + λ_p polarization + λ_a (share that is open - target)²

where shares are of what the gates close, as are the weights of the
polarization. Gates start open. The target moves from 1 to τ over the first part
of the run, and λ_p grows from 0 meanwhile: a target of τ from the start would
close all gates alike before the task can tell them apart. λ_a is given as a
share a of the `scl_jax.gates.limit` above which a gate can settle half open.
For L gates of shares w the prices alone settle where |share - τ| is at most
max(w, 1/L) / (2a), for each w whose gate could still move towards τ: see
`scl_jax.gates.activity`. If the task keeps it further away, `extract` says so.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import evaluation
from experiments import input_pipeline
from experiments import training_step
from experiments.models import gate
import scl_jax
from scl_jax import gates
from scl_jax import tree as tree_lib

_COSTS = ('macs', 'connections', 'gates')
_CLOSE = 0.01  # a share that nobody misses
_EXAMPLES = 32  # that outputs before and after compaction are compared on


def make_regularizer(
  config: ml_collections.ConfigDict,
  model: Any,
  image_shape: tuple[int, ...],
  num_steps: int,
) -> training_step.Regularizer | None:
  """The price of gates that a config describes.

  Args:
    config: Of `method` `'consensus'`, else there is none. The arguments of
      `price` are in `config.consensus`.
    model: A model with gates.
    image_shape: (height, width, channels).
    num_steps: The length of the run, in steps.

  Returns:
    A regularizer for `training_step.make_step`, which records `'activity'`,
    the open share, and `'polarization'`; `None` for another method.

  Raises:
    ValueError: If the model has no gates, or an argument is bad.
  """
  if config.method != 'consensus':
    return None
  check_gated(config, model)
  if config.consensus.target is None:
    raise ValueError(
      "config.method='consensus' needs config.consensus.target, the share to "
      'leave open, in (0, 1].'
    )
  try:
    return price(model, image_shape, num_steps, **config.consensus)
  except TypeError as error:
    raise ValueError(
      f'config.consensus does not fit experiments.gating.price: {error}'
    ) from error


def check_gated(config: ml_collections.ConfigDict, model: Any) -> None:
  """Raises unless a model has gates.

  Args:
    config: Whose `model` it is.
    model: It.

  Raises:
    ValueError: If it has none.
  """
  if not isinstance(model, gate.GatedModel):
    raise ValueError(
      "config.method='consensus' needs a model with gates, such as "
      f"'gated_resnet20'; got config.model={config.model!r}."
    )


def price(
  model: gate.GatedModel,
  image_shape: tuple[int, ...],
  num_steps: int,
  *,
  target: float,
  costs: str = 'macs',
  polarization: float = 1.0,
  activity: float = 0.75,
  ramp: float = 0.5,
) -> training_step.Regularizer:
  """See the module's docstring.

  Args:
    model: A model with gates.
    image_shape: (height, width, channels).
    num_steps: The length of the run, in steps.
    target: τ in (0, 1], the share to leave open.
    costs: What it is a share of: of the `'macs'` or the `'connections'` that
      gates close, or of the `'gates'`.
    polarization: λ_p > 0.
    activity: λ_a, as a share in (0, 1) of its upper bound.
    ramp: The share of the run until τ and λ_p are reached, in (0, 1].

  Returns:
    A regularizer.

  Raises:
    ValueError: If an argument is out of range.
  """
  for name, value, is_good, range_ in (
    ('target', target, 0 < target <= 1, 'in (0, 1]'),
    ('costs', costs, costs in _COSTS, f'one of {_COSTS}'),
    ('polarization', polarization, 0 < polarization < np.inf, '> 0'),
    ('activity', activity, 0 < activity < 1, 'in (0, 1)'),
    ('ramp', ramp, 0 < ramp <= 1, 'in (0, 1]'),
  ):
    if not is_good:
      raise ValueError(
        f'config.consensus.{name} must be {range_}; got {value!r}.'
      )
  costs_of_gates = gate_costs(model, image_shape, costs)

  def regularizer(decisions, step):
    means = gates.gate_means(decisions)
    strength = activity * polarization * gates.limit(means, costs_of_gates)
    progress = jnp.minimum((step + 1) / (ramp * num_steps), 1.0)
    split = gates.polarization(means, costs_of_gates)
    gap = gates.activity(
      means, costs_of_gates, target=1 - (1 - target) * progress
    )
    objective = polarization * progress * split + strength * gap
    return objective, {
      'activity': gates.activity(means, costs_of_gates),
      'polarization': gates.polarization(means),
    }

  return regularizer


def gate_costs(
  model: gate.GatedModel, image_shape: tuple[int, ...], kind: str = 'macs'
) -> dict[str, float]:
  """What each gate closes.

  Args:
    model: A model with gates.
    image_shape: (height, width, channels).
    kind: `'macs'`, `'connections'` or `'gates'`, each of which costs 1.

  Returns:
    By the name of the decisions, the cost of one of these gates.
  """
  network = model.without_gates()
  images = jnp.zeros((1, *image_shape))
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  params = variables['params']
  per_connection = jax.tree.map(lambda p: 1.0, params)
  if kind == 'macs':
    per_connection = scl_jax.costs(network.apply, variables, images)['params']
  layers = {
    path.removesuffix('/kernel'): float(leaf.size * cost)
    for path, leaf, cost in tree_lib.zip_leaves(params, per_connection)
    if path.endswith('/kernel')
  }
  costs = model.gate_costs(layers)
  return dict.fromkeys(costs, 1.0) if kind == 'gates' else costs


class Static(NamedTuple):
  """The network that a run with gates leaves.

  Attributes:
    model: A Linen module without gates, and without closed blocks.
    params: Its params; 0 where channels are closed.
    masks: Their masks.
    model_state: BatchNorm's statistics.
    small: The same network, compacted; its params are variables.
    report: What goes into `result.json`.
  """

  model: Any
  params: Any
  masks: Any
  model_state: Any
  small: scl_jax.CompactModel
  report: dict[str, Any]


def findings(
  share: float,
  is_open: Mapping[str, Any],
  costs: Mapping[str, float],
  arguments: Mapping[str, Any],
) -> list[str]:
  """What is wrong with the share that a run has left open.

  Args:
    share: It.
    is_open: By the name of the decisions, which gates are open.
    costs: By the same names, the cost of one of these gates.
    arguments: Those of `price`.

  Returns:
    A line if it is further from τ than the prices alone would leave it, see the
    module's docstring, and by more than 1 %; else none.
  """
  gap = share - arguments['target']
  total = sum(np.size(is_open[name]) * costs[name] for name in is_open)
  could_move = [
    costs[name] / total
    for name in is_open
    if np.any(np.asarray(is_open[name]) == (gap > 0))
  ]
  if not could_move:
    return []
  count = sum(np.size(value) for value in is_open.values())
  explained = max(min(could_move), 1 / count) / (2 * arguments['activity'])
  if abs(gap) <= explained + _CLOSE:
    return []
  verb = 'closing' if gap > 0 else 'opening'
  return [
    f'Open gates are {share:.1%} of the {arguments["costs"]} that gates close, '
    f'and config.consensus.target={arguments["target"]:g}, though {verb} a '
    f'gate of {min(could_move):.2%} would come nearer: train longer, or raise '
    'config.consensus.polarization, which both prices grow with.'
  ]


def extract(
  model: Any,
  state: training_step.TrainState,
  dataset: input_pipeline.Dataset,
  arguments: Mapping[str, Any],
) -> Static:
  """Removes what is closed for most training examples, and all gates.

  Nothing is trained after that. The test split is read.

  Args:
    model: The model with gates.
    state: The end of its training.
    dataset: The data set.
    arguments: Those of `price`.

  Returns:
    The static network, with a report of what `small_network` measures, and
    `dynamic_test_accuracy`, that of the network with gates; `disagreement` and
    `test_disagreement`, of the gates on either split; `open_macs`, the share of
    the MACs that gates close that is open, and `open_share`, that of what the
    target is a share of; `closed`, which gates are; `findings`.
  """
  decisions, test_decisions = (
    evaluation.decisions(model, state.params, split, state.model_state)
    for split in (dataset.train, dataset.test)
  )
  is_open = gates.consensus(decisions)
  network, left = model.extract(
    {'params': state.params, **state.model_state}, is_open
  )
  small, measured = small_network(network, left, dataset, model.without_gates())
  image_shape = dataset.train.image_shape
  macs = gate_costs(model, image_shape)
  costs = gate_costs(model, image_shape, arguments['costs'])
  share = float(gates.activity(is_open, costs))
  report = {
    **measured,
    'dynamic_test_accuracy': evaluation.accuracy(
      model, state.params, dataset.test, state.model_state
    ),
    'disagreement': float(gates.disagreement(decisions)),
    'test_disagreement': float(gates.disagreement(test_decisions)),
    'open_macs': float(gates.activity(is_open, macs)),
    'open_share': share,
    'closed': {
      name: np.flatnonzero(~np.asarray(value)).tolist()
      for name, value in is_open.items()
    },
    'findings': findings(share, is_open, costs, arguments),
  }
  masks = jax.tree.map(
    lambda p, is_prunable: (p != 0).astype(p.dtype) if is_prunable else None,
    left['params'],
    scl_jax.prunable(left['params']),
  )
  state_left = {k: v for k, v in left.items() if k != 'params'}
  return Static(network, left['params'], masks, state_left, small, report)


class _Network(NamedTuple):
  """A function in the place of a Linen module."""

  apply: Callable[..., Any]


def small_network(
  network: Any, variables: Any, dataset: input_pipeline.Dataset, full: Any
) -> tuple[scl_jax.CompactModel, dict[str, Any]]:
  """Compacts a network, and measures what is left.

  Args:
    network: A Linen module.
    variables: Its variables; what is 0 may go.
    dataset: Its test split is read.
    full: The module from which blocks and channels were removed.

  Returns:
    The small network, whose params are variables; and `test_accuracy`, `params`
    and `macs` of an example, `dense_params` and `dense_macs` of the full
    module, `density`, the share of its connections that is left.
  """
  images = evaluation.some_images(dataset.test, _EXAMPLES)
  small = scl_jax.compact(network.apply, variables, None, images)
  shapes = jax.eval_shape(full.init, jax.random.key(0), images[:1])
  state = dict(small.params)
  accuracy = evaluation.accuracy(
    _Network(small.fn), state.pop('params'), dataset.test, state
  )
  sizes = _sizes(small.fn, small.params, images)
  dense = _sizes(full.apply, shapes, images)
  return small, {
    'test_accuracy': accuracy,
    'density': sizes.pop('connections') / dense.pop('connections'),
    **sizes,
    **{f'dense_{name}': size for name, size in dense.items()},
  }


def _sizes(
  fn: Callable[..., Any], variables: Any, images: jax.Array
) -> dict[str, int]:
  """Parameters, connections, and MACs of an example."""
  costs = scl_jax.costs(fn, variables, images[:1])
  params, chosen = variables['params'], scl_jax.prunable(variables['params'])
  rows = tree_lib.zip_leaves(params, chosen, costs['params'])
  return {
    'params': sum(leaf.size for _, leaf, _, _ in rows),
    'connections': sum(leaf.size for _, leaf, chosen, _ in rows if chosen),
    'macs': round(sum(leaf.size * (cost or 0) for _, leaf, _, cost in rows)),
  }
