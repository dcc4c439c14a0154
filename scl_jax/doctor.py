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
"""What goes wrong in a sparse run, and what to change."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from scl_jax import checks
from scl_jax import metrics
from scl_jax import motion
from scl_jax import patterns
from scl_jax import reachability
from scl_jax import tree as tree_lib
from scl_jax import wide
from scl_jax.rules import SCLState
from scl_jax.state import SparsifyState
from scl_jax.state import get_masks
from scl_jax.state import get_sparsify_state

PyTree = tree_lib.PyTree

# From here on something is a finding. Chosen by hand on a few small networks.
_STILL_SHARE = 0.35  # of the mask phase without a change of the density
_FAST_ENOUGH = 2.0  # times the pace so far
_LATE_SHARE = 0.1  # of the mask phase in which density should be near target
_FAR = 1.25  # density / target
_LOW = 0.5
_PATHLESS_SHARE = 0.2  # of a leaf's live connections


class Finding(NamedTuple):
  """Something that is wrong with a run.

  Attributes:
    code: A short name: `'nan'`, `'collapse'`, `'penalty'`, `'stopped'`,
      `'target'` or `'path'`.
    message: One sentence: what is wrong, and what to change.
  """

  code: str
  message: str


def diagnose(
  opt_state: optax.OptState,
  steps_left: int,
  *,
  groups: Mapping[str, str | Sequence[str]] | None = None,
  fn: Callable[..., Any] | None = None,
  params: PyTree | None = None,
  inputs: Sequence[Any] = (),
) -> list[Finding]:
  """Looks for what goes wrong in a sparse run.

  It reads the state once, outside of `jax.jit`, and changes nothing. For states
  of other rules than `scl` the checks of layers and of paths apply.

  Args:
    opt_state: The state of an optimizer that contains `sparsify`, of one
      network: where nothing in it counts steps, one of several networks is not
      told from that.
    steps_left: The steps that are left of the run.
    groups: Names for groups of layers that must not all die, such as the stages
      of a residual network: from a name to regular expressions for whole paths.
    fn: The model, a function `fn(params, *inputs)`; with it live connections
      are found that are on no path from the inputs to the output.
    params: What `fn` is called with.
    inputs: Its other arguments, arrays or `jax.ShapeDtypeStruct`; their values
      do not matter, and a batch of one is enough.

  Returns:
    The findings, none for a healthy run.

  Raises:
    ValueError: If an argument does not fit.

  Example:
    >>> tx = scl_jax.sparsify(
    ...     optax.sgd(0.1), scl_jax.scl(target_density=0.5, freeze_step=100)
    ... )
    >>> state = tx.init({'w': jnp.ones((2, 2))})
    >>> [finding.code for finding in diagnose(state, steps_left=80)]
    ['target']
    >>> diagnose(state, steps_left=120)
    []
  """
  checks.check_scalar(
    'steps_left', steps_left, lambda x: x >= 0, 'finite and >= 0'
  )
  if groups is not None and not isinstance(groups, Mapping):
    raise ValueError(
      "groups must be a mapping, such as {'stage 1': 'block_1/.*'}; got "
      f'{groups!r}.'
    )
  if fn is not None and params is None:
    raise ValueError(
      'fn needs params, and what else it is called with, inputs.'
    )
  if not isinstance(inputs, Sequence):
    raise ValueError(
      'inputs must be a list or tuple of what fn is called with after params; '
      f'got a {type(inputs).__name__}.'
    )
  masks = get_masks(opt_state)
  sparsify_state = get_sparsify_state(opt_state)
  state = sparsify_state.rule_state
  if any(
    jnp.ndim(count) and jnp.issubdtype(jnp.result_type(count), jnp.integer)
    for _, count in optax.tree.get_all_with_path(opt_state, 'count')
  ):
    raise ValueError(
      'opt_state is of several networks, as jax.vmap makes it: give the state '
      'of one, jax.tree.map(lambda x: x[0], opt_state).'
    )
  findings = _not_a_number(sparsify_state)
  if findings:
    return findings  # what follows from it needs no advice of its own
  layers = [path for path, mask in tree_lib.zip_leaves(masks) if mask.size]
  members = {
    name: _members(f'groups[{name!r}]', given, layers)
    for name, given in (groups or {}).items()
  }
  if not isinstance(state, SCLState) or int(state.count) > 0:
    findings += _collapsed(masks, members)
  if isinstance(state, SCLState) and layers:
    findings += _missed_target(state, steps_left)
    if not _is_dense(state):
      findings += _weak_penalty(state, steps_left) or _stopped(state)
  if fn is not None:
    findings += _pathless(fn, params, inputs, masks)
  return findings


def _not_a_number(state: SparsifyState) -> list[Finding]:
  mask_params = getattr(state.rule_state, 'mask_params', None)
  lost, total = _count(jnp.isnan, mask_params)
  if lost:
    return [
      Finding(
        'nan',
        f'{lost} of {total} mask variables are NaN, so that their masks '
        'stay closed for good: go back to a state before that, and look for '
        'NaN in the penalty, the normalizer and the mask optimizer.',
      )
    ]
  lost, total = _count(lambda w: ~jnp.isfinite(w), state.weights)
  if lost:
    return [
      Finding(
        'nan',
        f'{lost} of {total} weights are NaN or infinite: go back to a state '
        'before that, and lower the learning rate, clip gradients, or leave '
        'bad batches out with optax.apply_if_finite.',
      )
    ]
  return []


def _count(
  is_bad: Callable[[jax.Array], jax.Array], tree: Any
) -> tuple[int, int]:
  """How many entries are bad, of how many."""
  leaves = jax.tree.leaves(tree)
  bad = sum(int(jnp.sum(is_bad(leaf))) for leaf in leaves)
  return bad, sum(leaf.size for leaf in leaves)


def _members(
  name: str, given: str | Sequence[str], paths: Sequence[str]
) -> list[str]:
  """The paths that one or more patterns match, each at least one."""
  given = [given] if isinstance(given, str) else given
  if not isinstance(given, Sequence) or not given:
    raise ValueError(
      f'{name} must be a pattern of paths or a list of them; got {given!r}.'
    )
  patterns.check_patterns(name, given)
  patterns.check_matches(name, given, paths)
  is_member = dict.fromkeys(given, True)
  return [path for path in paths if patterns.look_up(is_member, path)]


def _collapsed(
  masks: PyTree, groups: Mapping[str, Sequence[str]]
) -> list[Finding]:
  dead = {
    path: float(density) == 0
    for path, density, mask in tree_lib.zip_leaves(
      metrics.layer_density(masks), masks
    )
    if mask.size
  }
  findings, told = [], set()
  for name, members in groups.items():
    if all(dead[path] for path in members):
      told.update(members)
      findings.append(
        Finding(
          'collapse',
          f'All {len(members)} layers of {name!r} have density 0, so that it '
          f'passes nothing on: {_REMEDY}',
        )
      )
  findings += [
    Finding(
      'collapse',
      f'Layer {path!r} has density 0, so that it passes nothing on: {_REMEDY}',
    )
    for path, is_dead in dead.items()
    if is_dead and path not in told
  ]
  return findings


_REMEDY = (
  'lower the penalty or ask for a higher density, give the layers a density '
  'each, or leave it dense with prunable=.'
)


_MORE_TIME = 'raise freeze_step and the length of the run, or lower ramp'


def _missed_target(state: SCLState, steps_left: int) -> list[Finding]:
  if state.control_state is None or state.freeze_step is None:
    return []
  freeze_step, count = int(state.freeze_step), int(state.count)
  if count >= freeze_step:
    return _uneven_cut(state, freeze_step)
  short = freeze_step - count - steps_left
  findings = []
  for where, density, goal in _aims(state):
    if short > 0:
      findings.append(
        Finding(
          'target',
          f'The run ends {short} steps before freeze_step={freeze_step}, so '
          f'that the target of {goal:.4g} %{where} is not made exact, and the '
          f'density is now {density:.4g} %: lower freeze_step or train longer.',
        )
      )
    elif (
      freeze_step - count <= _LATE_SHARE * freeze_step and density > _FAR * goal
    ):
      findings.append(
        Finding(
          'target',
          f'The density is {density:.4g} %{where} and the target '
          f'{goal:.4g} %, with {freeze_step - count} steps to the cut, which '
          f'will close the others at once and cost accuracy: {_MORE_TIME}.',
        )
      )
  return findings


def _uneven_cut(state: SCLState, freeze_step: int) -> list[Finding]:
  """What the cut had to mend, as the controller last looked before it."""
  findings = []
  for where, density, goal in _aims(state):
    told = None
    if density > _FAR * goal:
      told = (
        f'closed what was left to close{where} at once, from {density:.4g} % '
        f'to {goal:.4g} %, which costs accuracy: {_MORE_TIME}.'
      )
    elif density < _LOW * goal:
      told = (
        f'opened most of what is live{where} again, from {density:.4g} % to '
        f'{goal:.4g} %, as masks moved faster than they could be steered: '
        'train longer, or lower the learning rate of the mask optimizer.'
      )
    if told is not None:
      message = f'The cut at freeze_step={freeze_step} {told}'
      findings.append(Finding('target', message))
  return findings


def _aims(state: SCLState) -> list[tuple[str, float, float]]:
  """What is controlled, its density now and the target, in percent."""
  if state.control_state is None:
    return []
  of_macs = (
    ' of the prunable MACs' if isinstance(state.budget, wide.Wide) else ''
  )
  rows = list(
    tree_lib.zip_leaves(state.control_state.density, state.control_state.target)
  )
  return [
    (
      of_macs or (f' in {path!r}' if len(rows) > 1 else ''),
      100 * float(density),
      100 * float(target),
    )
    for path, density, target in rows
  ]


def _is_dense(state: SCLState) -> bool:
  """Whether the target is to keep all, so that no mask need move."""
  aims = _aims(state)
  return bool(aims) and all(goal == 100 for _, _, goal in aims)


def _weak_penalty(state: SCLState, steps_left: int) -> list[Finding]:
  count, moved = int(state.count), state.motion_state
  steps = _mask_steps(state, steps_left)
  if (
    int(moved.changed) >= 0
    or not steps
    or count < max(steps / 10, motion.EVERY)
  ):
    return []
  nearest = min(
    float(jnp.min(jnp.abs(m)))
    for m in jax.tree.leaves(state.mask_params)
    if m.size
  )
  pace = abs(abs(float(moved.start)) - nearest) / count
  if nearest <= _FAST_ENOUGH * pace * steps:
    return []
  return [
    Finding(
      'penalty',
      f'No mask has crossed 0 in {count} steps, and at this pace none will in '
      f'the {steps} that are left, as the nearest mask variable is still '
      f'{nearest:.3g} from it: raise the penalty or the learning rate of the '
      'mask optimizer, or train longer.',
    )
  ]


def _stopped(state: SCLState) -> list[Finding]:
  if state.freeze_step is None:
    return []
  freeze_step, moved = int(state.freeze_step), state.motion_state
  end = min(int(state.count), freeze_step)
  never, changed = int(moved.changed) < 0, max(0, int(moved.changed))
  if end - changed <= max(_STILL_SHARE * freeze_step, 2 * motion.EVERY):
    return []
  remedy = (
    'raise the learning rate of the mask optimizer or the penalty.'
    if never
    else 'lower freeze_step to fine-tune the weights for longer, or raise the '
    'box or the learning rate of the mask optimizer if masks should still move.'
  )
  return [
    Finding(
      'stopped',
      f'The density has not changed from step {changed} to step {end}, with '
      f'freeze_step={freeze_step}: {remedy}',
    )
  ]


def _mask_steps(state: SCLState, steps_left: int) -> int:
  """The steps that are left in which masks are trained."""
  if state.freeze_step is None:
    return steps_left
  return max(0, min(steps_left, int(state.freeze_step) - int(state.count)))


def _pathless(
  fn: Callable[..., Any], params: PyTree, inputs: Sequence[Any], masks: PyTree
) -> list[Finding]:
  found = reachability.on_path(fn, params, inputs, masks)
  findings = []
  for path, mask, is_on_path in tree_lib.zip_leaves(masks, found):
    live = int(jnp.sum(mask != 0))
    lost = live - int(jnp.sum(is_on_path))
    if lost > _PATHLESS_SHARE * live:
      findings.append(
        Finding(
          'path',
          f'{lost} of {live} live connections of {path!r} are on no path from '
          'the inputs to the output and only use up density: train masks for '
          'longer before freeze_step, or ask for a higher density there.',
        )
      )
  return findings
