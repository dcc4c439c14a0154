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
"""Runs that differ in seed, penalty or target density, as one program.

The states of all runs are stacked, and the step is mapped over them by
`jax.vmap`. It is the one of the first run, but for what lies in the state: the
penalty, which the step's rule is made with, and the target density, which
`scl_jax.scl` itself reads there. A run starts from the very state that it has
alone and sees the same batches; XLA adds in another order, so its numbers
differ from those alone by rounding, which grows over the steps. A group that is
interrupted is lost as a whole.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
import itertools
import math
import time
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tqdm

from experiments import feeds
from experiments import initial
from experiments import input_pipeline
from experiments import optimizers
from experiments import train
from experiments import training_step
import scl_jax

# Of the states of a group: with SCL and Adam five arrays of each weight. What a
# step needs besides is a few times that. LeNet-300-100 on MNIST: 50 runs.
STATE_BYTES = 2**28

_Key = TypeVar('_Key', bound=Hashable)


def groups(
  configs: Mapping[_Key, ml_collections.ConfigDict],
  model: Any,
  dataset: input_pipeline.Dataset,
) -> list[list[_Key]]:
  """Which runs to train together, and which alone.

  Args:
    configs: The configs of the runs, which differ in nothing but seed, penalty,
      target density and method, by any key.
    model: A Linen module.
    dataset: The data set.

  Returns:
    Lists of the keys; that of a list of one is trained alone.

  Raises:
    ValueError: If `config.together` asks for what is not possible.
  """
  alike: dict[Any, list[_Key]] = {}
  for key, config in configs.items():
    kind = config.method, config.target_density is None
    alike.setdefault(kind, []).append(key)
  parts = []
  for keys in alike.values():
    size = group_size(configs[keys[0]], model, dataset)
    number = math.ceil(len(keys) / size)
    ends = [len(keys) * i // number for i in range(number + 1)]
    parts += [keys[i:j] for i, j in itertools.pairwise(ends)]
  return parts


def group_size(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> int:
  """How many runs of a config to train at once, at most.

  Dense networks on an accelerator, as far as their states fit `STATE_BYTES`: a
  small one alone leaves most of the device idle. A CPU is busy with one, and
  the kernels of several networks make a grouped convolution, which is slow.
  `experiments.benchmarks.together` measures it.

  Args:
    config: `together` is `True` or `False` to have it so, `None` to choose.
    model: A Linen module.
    dataset: For the shape of an image.

  Returns:
    The number of runs; 1 is one after another.

  Raises:
    ValueError: If `config.together` is `True` and the runs cannot be.
  """
  obstacle = _obstacle(config)
  if config.together and obstacle is not None:
    raise ValueError(
      f'config.together=True is not possible with {obstacle}: leave it out, '
      'and the runs are trained one after another.'
    )
  if config.together is False or obstacle is not None:
    return 1
  if not config.together and jax.default_backend() == 'cpu':
    return 1
  fresh = config.copy_and_resolve_references()
  fresh.warm_start = None  # shapes alone are needed, and no file for them
  state = jax.eval_shape(lambda: start(fresh, model, dataset, 1)[1])
  size = STATE_BYTES // sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(state)
  )
  if config.together:
    return max(2, size)
  return 1 if training_step.has_convolutions(state.params) else max(1, size)


class Program(NamedTuple):
  """Several runs, ready to start.

  Attributes:
    states: Their first states, stacked.
    run_steps: `(states, arrays, batches) -> (states, metrics)`, as of
      `training_step.make_run_steps`.
    arrays: The data, on the device.
    batches: `(first step, number of steps) -> rows`, [steps, runs, batch].
    steps_per_epoch: The steps of an epoch.
  """

  states: train.TrainState
  run_steps: training_step.RunSteps
  arrays: Any
  batches: Callable[[int, int], np.ndarray]
  steps_per_epoch: int


def compose(
  configs: Sequence[ml_collections.ConfigDict],
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Program:
  """Makes one program of several runs.

  Args:
    configs: At least one; they differ in seed, penalty or target density.
    model: A Linen module.
    dataset: Its train split is used.

  Returns:
    A `Program`.

  Raises:
    ValueError: If the configs are bad, or one step cannot serve all.
  """
  _check(configs)
  config = configs[0]
  feed = feeds.make_feed(config, dataset.train)
  orders = {c.seed: feeds.make_feed(c, dataset.train).batches for c in configs}
  num_steps = config.epochs * feed.steps_per_epoch
  starts = [start(c, model, dataset, num_steps) for c in configs]
  one_state = starts[0][1]

  def step(state, arrays, batch):
    own_step = training_step.make_step(
      config,
      model,
      _optimizer(config, num_steps, **_own_penalty(config, state)),
      dataset.train.scaling,
      feed.take,
    )
    return own_step(state, arrays, batch)

  def batches(first: int, number: int) -> np.ndarray:
    rows = {s: np.asarray(order(first, number)) for s, order in orders.items()}
    return np.stack([rows[c.seed] for c in configs], axis=1)

  return Program(
    states=jax.tree.map(lambda *x: jnp.stack(x), *(s for _, s in starts)),
    run_steps=training_step.make_run_steps(
      jax.vmap(step, in_axes=(0, None, 0)),
      scan=not training_step.loops_are_slow(one_state.params),
    ),
    arrays=feed.arrays,
    batches=batches,
    steps_per_epoch=feed.steps_per_epoch,
  )


def start(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
  num_steps: int,
) -> tuple[optax.GradientTransformation, train.TrainState]:
  """The optimizer of a run alone, and its first state.

  Args:
    config: The config of the run.
    model: A Linen module.
    dataset: For the shape of an image.
    num_steps: The length of the run.

  Returns:
    An optax transformation and a `TrainState`.
  """
  tx = _optimizer(config, num_steps)
  return tx, initial.first_state(config, model, dataset, tx)


def _optimizer(
  config: ml_collections.ConfigDict, num_steps: int, **arguments: Any
) -> optax.GradientTransformation:
  """The optimizer of a config, with further arguments for its rule."""
  rule = train.rule_of(config, num_steps, **arguments)
  tx = optimizers.make_optimizer(config, num_steps)
  return tx if rule is None else scl_jax.sparsify(tx, rule)


def _own_penalty(
  config: ml_collections.ConfigDict, state: train.TrainState
) -> dict[str, jax.Array]:
  """The given penalty of a run, which stays in its state."""
  if config.method == 'dense':
    return {}
  rule_state = scl_jax.get_sparsify_state(state.opt_state).rule_state
  is_given = rule_state.control_state is None
  return {'penalty': rule_state.penalty} if is_given else {}


def fit(
  configs: Sequence[ml_collections.ConfigDict],
  model: Any,
  dataset: input_pipeline.Dataset,
) -> list[train.Run]:
  """Trains several networks at once.

  Args:
    configs: At least one; they differ in seed, penalty or target density.
    model: A Linen module.
    dataset: Its train split is used; nothing is validated.

  Returns:
    The run of each, as `train.fit` gives it; `seconds` is its share of the
    time.

  Raises:
    ValueError: If the configs are bad, or cannot be trained together.
  """
  begin = time.perf_counter()
  program = compose(configs, model, dataset)
  config, states = configs[0], program.states
  num_steps = config.epochs * program.steps_per_epoch
  densities_of = jax.jit(
    jax.vmap(lambda state: scl_jax.density(train.get_masks(config, state)))
  )

  freeze = train.freeze_step(config, num_steps)
  findings: list[list[str]] = [[] for _ in configs]
  histories: list[list[dict[str, float]]] = [[] for _ in configs]
  step = 0
  with tqdm.tqdm(total=num_steps, unit='step', disable=None) as bar:
    bar.set_description(f'{config.method}, {len(configs)} runs together')
    for epoch, number, _ in train.points(
      config, program.steps_per_epoch, first_step=0
    ):
      states, metrics = program.run_steps(
        states, program.arrays, program.batches(step, number)
      )
      step += number
      for history, loss, density in zip(
        histories,
        np.asarray(metrics['loss']).tolist(),
        np.asarray(densities_of(states)).tolist(),
        strict=True,
      ):
        history.append(
          {'step': step, 'epoch': epoch, 'loss': loss, 'density': density}
        )
      if config.method != 'dense' and freeze - number <= step < freeze:
        findings = [
          train.diagnose(state, num_steps)
          for state in _unstack(states, len(configs))
        ]
      bar.update(number)

  seconds = (time.perf_counter() - begin) / len(configs)
  return [
    train.Run(
      state,
      history,
      freeze,
      seconds,
      train.divergence(history)
      or found
      or ([] if config.method == 'dense' else train.diagnose(state, num_steps)),
    )
    for state, history, found in zip(
      _unstack(states, len(configs)), histories, findings, strict=True
    )
  ]


def _unstack(states: train.TrainState, number: int) -> list[train.TrainState]:
  return [
    jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(number)
  ]


def _obstacle(config: ml_collections.ConfigDict) -> str | None:
  """What rules out that a step serves several runs, if anything does."""
  if config.method not in ('dense', 'scl'):
    # Other rules hold their density as a constant of the step.
    return f'config.method={config.method!r}'
  if config.crop_padding or config.flip:
    return 'config.crop_padding or config.flip, which one seed decides'
  if config.stream:
    return 'config.stream=True'
  if config.recalibration_batches:
    return f'config.recalibration_batches={config.recalibration_batches}'
  return None


def _check(configs: Sequence[ml_collections.ConfigDict]) -> None:
  """Raises unless one step serves all."""
  obstacle = _obstacle(configs[0])
  if obstacle is not None:
    raise ValueError(f'Runs with {obstacle} cannot be trained together.')
  settings = [_settings(config) for config in configs]
  different = sorted(
    name
    for name in settings[0]
    if any(other.get(name) != settings[0][name] for other in settings)
  )
  if different:
    raise ValueError(
      'Runs that are trained together may differ in seed, penalty and the '
      f'number target_density; these differ in {different}.'
    )


def _settings(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What must be the same in all runs of a group."""
  settings = config.to_dict()
  settings['target_density'] = config.target_density is None
  return {k: v for k, v in settings.items() if k not in ('seed', 'penalty')}
