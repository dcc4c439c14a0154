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
"""The methods that `experiments.compare` compares.

A contender is a rule with settings, or one of the two that are more than a
rule: NNrelief, which trains several times, and the control that keeps SCL's
layer densities and draws its connections anew.
"""

from collections.abc import Mapping
import functools
import types
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from experiments import input_pipeline
from experiments import preparation
from experiments import rewinding
from experiments import rules
from experiments import train
import scl_jax
from scl_jax import checks


class Contender(NamedTuple):
  """How a method enters the comparison.

  Attributes:
    label: Its name in tables.
    settings: Config fields by dotted name, `'rigl.update_every'` say.
    strength: The dotted name of what decides the density, for methods that
      cannot be asked for one; `None` for the others.
    strengths: The ends of the range to search it in.
    dense_gradients: Which steps need the gradients of connections that are not
      live: `'none'`, `'all'`, those in which `'masks'` are trained or those
      that are `'changes'` of masks.
    kind: `'rule'`, `'nnrelief'` or `'shuffled'`.
  """

  label: str
  settings: Mapping[str, Any]
  strength: str | None = None
  strengths: tuple[float, float] = (0.0, 0.0)
  dense_gradients: Literal['none', 'all', 'masks', 'changes'] = 'none'
  kind: str = 'rule'


CONTENDERS: Mapping[str, Contender] = types.MappingProxyType(
  {
    'scl': Contender('SCL', {'method': 'scl'}, dense_gradients='masks'),
    'gradual_magnitude': Contender(
      'gradual magnitude', {'method': 'gradual_magnitude'}
    ),
    'lamp': Contender(
      'gradual, LAMP scores',
      {'method': 'gradual_magnitude', 'gradual_magnitude.score': 'lamp'},
    ),
    'rigl': Contender('RigL', {'method': 'rigl'}, dense_gradients='changes'),
    'set': Contender('SET', {'method': 'sparse_evolutionary_training'}),
    'snip': Contender('SNIP', {'method': 'snip'}),
    'dst': Contender(
      'DST',
      {'method': 'dynamic_sparse_training'},
      strength='dynamic_sparse_training.penalty',
      strengths=(1e-6, 1e-1),
      dense_gradients='all',
    ),
    'str': Contender(
      'STR',
      {'method': 'soft_threshold'},
      strength='soft_threshold.decay',
      strengths=(1e-6, 10.0),
    ),
    'nnrelief': Contender(
      'NNrelief',
      {'method': 'static_masks'},
      strength='nnrelief.cut_share',
      strengths=(1e-3, 0.9),
      kind='nnrelief',
    ),
    'random': Contender('random, ERK', {'method': 'random_pruning'}),
    'shuffled': Contender(
      "SCL's layer densities, shuffled", {'method': 'scl'}, kind='shuffled'
    ),
  }
)


class Trained(NamedTuple):
  """A network at the end of a method's budget.

  Attributes:
    params: The effective parameters.
    model_state: BatchNorm's statistics, or {}.
    masks: Masks of the prunable leaves.
    mean_density: The density, averaged over the points of training at which
      metrics were taken.
    seconds: Wall-clock time of training.
    findings: See `train.Run`; of NNrelief those of all its trainings.
  """

  params: Any
  model_state: Any
  masks: Any
  mean_density: float
  seconds: float
  findings: list[str]


def get(name: str) -> Contender:
  """The contender of that name.

  Args:
    name: A key of `CONTENDERS`.

  Returns:
    A `Contender`.

  Raises:
    ValueError: If there is no such contender.
  """
  if name not in CONTENDERS:
    raise ValueError(
      f'There is no contender {name!r}; there are: {", ".join(CONTENDERS)}.'
    )
  return CONTENDERS[name]


def label_of(method: str) -> str:
  """The label of a config's method: its contender's, else its own name."""
  for contender in CONTENDERS.values():
    if contender.settings == {'method': method}:
      return contender.label
  return method


def dense_gradient_share(config: ml_collections.ConfigDict, name: str) -> float:
  """The share of steps that need the gradients of all connections.

  Args:
    config: From `configure`.
    name: A key of `CONTENDERS`.

  Returns:
    A number in [0, 1].
  """
  every = config.get(config.method, {}).get('update_every', 100)
  return {
    'none': 0.0,
    'all': 1.0,
    'masks': config.freeze_at,
    'changes': config.freeze_at / every,
  }[get(name).dense_gradients]


def configure(
  config: ml_collections.ConfigDict,
  name: str,
  density: float,
  seed: int,
  settings: Mapping[str, Any],
) -> ml_collections.ConfigDict:
  """The config of one run.

  Args:
    config: What all methods share.
    name: A key of `CONTENDERS`.
    density: The density to ask for.
    seed: Decides initial weights and the order of the examples.
    settings: Fields by dotted name, on top of the contender's own.

  Returns:
    A new config.

  Raises:
    ValueError: If there is no such contender, or a setting is of no field or
      of another type than the field.
  """
  own = get(name).settings
  config = config.copy_and_resolve_references()
  config.seed = seed
  # What a strength decides cannot be asked for.
  config.target_density = density if get(name).strength is None else None
  # Below the field of the method the rule itself refuses what it lacks.
  known = {*config.keys(), own['method']}
  with config.unlocked():
    for path, value in {**own, **settings}.items():
      *parents, field = path.split('.')
      if (*parents, field)[0] not in known:
        raise ValueError(
          f'The setting {path!r} of {name!r} is of no field of the config.'
        )
      node: Any = config
      try:
        for parent in parents:
          if parent not in node:
            node[parent] = ml_collections.ConfigDict()
          node = node[parent]
        node[field] = value
      except TypeError as error:
        raise ValueError(
          f'The setting {path!r} of {name!r} does not fit the config: {error}'
        ) from error
  return config


def check(
  config: ml_collections.ConfigDict,
  name: str,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> None:
  """Raises if `run` would refuse the config, as far as no training tells.

  Args:
    config: From `configure`.
    name: A key of `CONTENDERS`.
    model: A Linen module.
    dataset: What it would be trained on.

  Raises:
    ValueError: If a field, the rule, the optimizer or the model is at fault.
  """
  if get(name).kind == 'nnrelief':
    config = rules.dense_config(_config_of_training(config))
    rewinding.trace(config, model, dataset)
  preparation.check(
    config, model, dataset, functools.partial(rules.rule_of, config)
  )


def run(
  config: ml_collections.ConfigDict,
  name: str,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Trained:
  """Trains one contender, for `config.epochs` in all.

  Args:
    config: From `configure`.
    name: A key of `CONTENDERS`.
    model: A Linen module.
    dataset: Its train split is used.

  Returns:
    A `Trained`.
  """
  silent = dataset.without_validation()
  kind = get(name).kind
  if kind == 'nnrelief':
    return _run_nnrelief(config, model, silent)
  if kind == 'shuffled':
    masks = train.get_masks(config, train.fit(config, model, silent).state)
    masks = shuffle(masks, jax.random.key(config.seed))
    done = train.fit(
      config,
      model,
      silent,
      make_rule=lambda _: scl_jax.static_masks(masks),
    )
  else:
    done = train.fit(config, model, silent)
  return Trained(
    params=done.state.params,
    model_state=done.state.model_state,
    masks=train.get_masks(config, done.state),
    mean_density=_mean(point['density'] for point in done.history),
    seconds=done.seconds,
    findings=done.findings,
  )


def shuffle(masks: Any, key: jax.Array) -> Any:
  """The same number of connections in each leaf, at random places."""
  leaves, treedef = jax.tree.flatten(masks)
  keys = jax.random.split(key, len(leaves))
  shuffled = [
    jax.random.permutation(k, mask.reshape(-1)).reshape(mask.shape)
    for k, mask in zip(keys, leaves, strict=True)
  ]
  return jax.tree.unflatten(treedef, shuffled)


def _run_nnrelief(
  config: ml_collections.ConfigDict,
  model: Any,
  dataset: input_pipeline.Dataset,
) -> Trained:
  """Dense training and all retraining share the epochs of the budget."""
  config = _config_of_training(config)
  flow = rewinding.trace(config, model, dataset)
  alpha = 1 - config.nnrelief.cut_share
  stages = list(
    rewinding.chain(
      config,
      model,
      dataset,
      rewinding.train_dense(config, model, dataset),
      flow,
      alpha,
      alpha,
    )
  )
  last = stages[-1]
  params = last.run.state.params
  masks = jax.tree.map(
    lambda _, chosen, mask: mask if chosen else None,
    params,
    scl_jax.prunable(params),
    last.masks,
  )
  return Trained(
    params=params,
    model_state=last.run.state.model_state,
    masks=masks,
    mean_density=_mean(
      point['density'] for stage in stages for point in stage.run.history
    ),
    seconds=sum(stage.run.seconds for stage in stages),
    findings=list(
      dict.fromkeys(f for stage in stages for f in stage.run.findings)
    ),
  )


def _config_of_training(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config of each training of NNrelief, if it can be run."""
  rewinding.check(config)
  trainings = config.nnrelief.iterations + 1
  if config.epochs % trainings:
    raise ValueError(
      f'config.epochs must be a multiple of the {trainings} trainings of '
      f'NNrelief (config.nnrelief.iterations + 1); got {config.epochs}.'
    )
  checks.check_scalar(
    'config.nnrelief.cut_share',
    config.nnrelief.cut_share,
    lambda share: 0 <= share < 1,
    'in [0, 1)',
  )
  config = config.copy_and_resolve_references()
  config.epochs //= trainings
  return config


def _mean(values: Any) -> float:
  return float(jnp.mean(jnp.array(list(values))))
