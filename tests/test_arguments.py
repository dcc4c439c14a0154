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
"""Arguments that several rules share: patterns of paths, schedules, trees."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import granularity
from scl_jax import masks as masks_lib
from scl_jax import patterns
from scl_jax.prunable import prunable_leaves

KEY = jax.random.key(0)
HALF = jnp.float32(0.5)


def _weights():
  return {'kernel': jnp.ones((6, 5)), 'bias': jnp.zeros(5)}


def _schedule(step):
  return 0.3 + 0 * step


# Patterns.


@pytest.mark.parametrize('pattern', ['*', '(', 3])
@pytest.mark.parametrize(
  ('argument', 'value'),
  [
    ('granularity', 'feature'),
    ('feature_axes', -1),
    ('target_density', 0.5),
  ],
)
def test_what_is_no_regular_expression_is_refused_at_once(
  argument, value, pattern
):
  arguments = {'penalty': 0.01, argument: {pattern: value}}
  if argument == 'target_density':
    arguments = {'freeze_step': 9, argument: {pattern: value}}
  with pytest.raises(ValueError, match=f'{argument} pattern') as info:
    scl_jax.scl(**arguments)
  assert f'{pattern!r} is no regular expression' in str(info.value)


@pytest.mark.parametrize(
  'arguments',
  [
    {'penalty': 0.01, 'granularity': {'typo': 'feature', '.*': 'connection'}},
    {'penalty': 0.01, 'feature_axes': {'typo': 0, '.*': 0}},
    {'target_density': {'typo': 0.1, '.*': 0.5}, 'freeze_step': 9},
  ],
  ids=['granularity', 'feature_axes', 'target_density'],
)
def test_a_pattern_that_matches_nothing_is_an_error(arguments):
  rule = scl_jax.scl(**arguments)
  with pytest.raises(ValueError, match="pattern 'typo' matches no prunable"):
    rule.init(_weights())


def test_the_paths_are_listed_and_what_is_not_prunable_is_said():
  patterns.check_matches('x', ['a', 'b|a'], ['a'])
  with pytest.raises(ValueError, match='x pattern') as info:
    patterns.check_matches('x', ['.*', 'b'], ['a'], others=['a', 'b'])
  assert "'b' matches no prunable leaf ('b' is not prunable)" in str(info.value)
  assert str(info.value).endswith("\n  'a'")


def test_the_first_match_wins_also_where_it_says_nothing_else():
  assert patterns.look_up({'b': 1, 'a.*': 2, '.*': 3}, 'ab') == 2
  assert patterns.look_up({'b': (), 'a': 2}, 'b') == ()
  assert patterns.look_up({'b': 1}, 'ab') is None


@pytest.mark.parametrize(
  'block', [{'.*': (2, 0)}, {'a': 'filter'}, {'a': None}]
)
def test_granularities_in_a_mapping_are_checked_at_once(block):
  with pytest.raises(ValueError, match='granularity must be'):
    scl_jax.scl(0.01, granularity=block)


def test_shapes_by_pattern():
  leaves = {'a': np.zeros((5, 6)), 'b': np.zeros((6, 4)), 'c': np.zeros((4, 3))}
  shapes = granularity.variable_shapes(
    leaves,
    {'a': (2, 4), 'b': 'feature', '.*': 'connection'},
    lambda path, leaf: (1,),
  )
  assert shapes == {'a': (3, 2), 'b': (1, 4), 'c': (4, 3)}


# Schedules.


@pytest.mark.parametrize(
  'arguments',
  [
    {'box': _schedule},
    {'ramp': _schedule},
    {'freeze_step': _schedule},
    {'init_value': _schedule},
    {'feature_price': _schedule},
    {'mask_optimizer': _schedule},
  ],
  ids=lambda arguments: next(iter(arguments)),
)
def test_what_is_no_schedule_is_refused_at_once(arguments):
  name = next(iter(arguments))
  with pytest.raises(ValueError, match=rf'^{name} must be .*got <function'):
    scl_jax.scl(0.01, **arguments)


@pytest.mark.parametrize(
  'make',
  [
    lambda: scl_jax.scl(target_density=_schedule, freeze_step=9),
    lambda: scl_jax.scl(target_density={'.*': _schedule}, freeze_step=9),
    lambda: scl_jax.scl(target_macs=_schedule, costs={}, freeze_step=9),
    lambda: scl_jax.gradual_magnitude(_schedule, end_step=9),
    lambda: scl_jax.gradual_magnitude(0.5, end_step=_schedule),
    lambda: scl_jax.snip(_schedule),
    lambda: scl_jax.rigl(_schedule, key=KEY, end_step=9),
    lambda: scl_jax.soft_threshold(0.1, init_value=_schedule),
    lambda: scl_jax.keep_params_in_box(_schedule),
    lambda: scl_jax.normalize_by_feature_norm(_schedule),
  ],
)
def test_nor_by_other_rules_and_transformations(make):
  with pytest.raises(ValueError, match=r'must be .*got <function'):
    make()


@pytest.mark.parametrize(
  'make',
  [
    scl_jax.scl,
    scl_jax.dynamic_sparse_training,
    scl_jax.soft_threshold,
  ],
)
def test_what_is_a_schedule_may_be_one(make):
  weights = _weights()
  rule = make(_schedule)
  state = rule.update(weights, rule.init(weights), weights)
  price = state.decay if make is scl_jax.soft_threshold else state.penalty
  assert price == jnp.float32(0.3)


# Feature axes.


@pytest.mark.parametrize('axes', [1.0, '-1', {'.*': 1.5}, (0, 1.0), [None]])
@pytest.mark.parametrize('make', [scl_jax.scl, scl_jax.dynamic_sparse_training])
def test_other_kinds_of_feature_axes(make, axes):
  with pytest.raises(ValueError, match='feature_axes must be None, an axis'):
    make(0.01, feature_axes=axes)


def test_feature_axes_may_be_numbers_of_numpy():
  m = masks_lib.init_mask_params(
    _weights(), granularity='feature', feature_axes=np.int64(-1)
  )
  assert m['kernel'].shape == (1, 5)


def test_a_function_of_feature_axes_is_checked_when_it_is_called():
  rule = scl_jax.scl(0.01, feature_axes=lambda path, leaf: 1.0)
  with pytest.raises(ValueError, match=r'feature_axes must be.*got 1\.0'):
    rule.init(_weights())


# Trees that can be called, as a module of Equinox can.


def _mlp():
  model = eqx.nn.MLP(4, 3, 5, 1, key=KEY)
  return eqx.filter(model, eqx.is_inexact_array)


def test_a_tree_of_bools_may_be_an_equinox_module():
  params = _mlp()
  chosen = scl_jax.prunable(params)
  assert callable(chosen)
  rule = scl_jax.scl(0.01, prunable=chosen)
  state = scl_jax.sparsify(optax.adam(0.01), rule).init(params)
  masks = scl_jax.get_masks(state)
  assert [mask.shape for mask in jax.tree.leaves(masks)] == [(5, 4), (3, 5)]


def test_an_equinox_module_that_does_not_fit_is_refused():
  chosen = scl_jax.prunable(_mlp())
  for select in (chosen.layers[0], jax.tree.map(float, chosen)):
    with pytest.raises(ValueError, match='a tree of bools with the structure'):
      scl_jax.prunable(_mlp(), select)


def test_a_predicate_for_params_that_are_one_array():
  kernel = jnp.ones((2, 3))
  assert prunable_leaves(kernel, lambda path, leaf: True) is kernel


def test_other_trees_may_be_equinox_modules():
  params = _mlp()
  chosen = scl_jax.prunable(params)
  leaves = prunable_leaves(params, chosen)
  masks = jax.tree.map(lambda w: w > 0, leaves)
  given = scl_jax.static_masks(masks).init(params).masks
  assert jax.tree.map(jnp.array_equal, given, masks).layers[0].weight
  m = scl_jax.init_mask_params(params, prunable=chosen)
  ones = jax.tree.map(lambda _: 2, leaves)
  assert scl_jax.connection_count(m, costs=ones) == 2 * 35
  costs = jax.tree.map(lambda _: 1, params)
  rule = scl_jax.scl(target_macs=0.5, costs=costs, freeze_step=9)
  assert int(rule.init(params).budget.low) == round(0.5 * 43) - 8


@pytest.mark.parametrize(
  'make',
  [
    lambda: scl_jax.scl(penalty=HALF),
    lambda: scl_jax.scl(target_density=HALF, freeze_step=9),
    lambda: scl_jax.rigl(HALF, key=KEY, end_step=9),
    lambda: scl_jax.gradual_magnitude(HALF, end_step=9),
    lambda: scl_jax.soft_threshold(HALF),
  ],
)
def test_known_arrays_are_numbers_within_jit_too(make):
  """There a comparison with one gives a traced bool."""
  rule = make()  # outside, and once more within
  expected = jax.tree.map(jnp.shape, rule.init(_weights()))
  for within in (lambda: rule, make):
    state = jax.eval_shape(lambda w, of=within: of().init(w), _weights())
    assert jax.tree.map(jnp.shape, state) == expected


def test_known_arrays_out_of_range_are_refused_within_jit():
  density = jnp.float32(2)
  with pytest.raises(ValueError, match=r'target_density must be in \(0, 1\]'):
    jax.eval_shape(lambda: scl_jax.snip(density).init(_weights()).budget)


def test_known_masks_are_checked_within_jit_too():
  masks = {'kernel': jnp.ones((6, 5)), 'bias': None}
  make = lambda masks: scl_jax.static_masks(masks).init(_weights())
  assert jax.jit(lambda: make(masks))().masks['kernel'].all()
  twos = {'kernel': 2 * masks['kernel'], 'bias': None}
  with pytest.raises(ValueError, match='masks must hold 0 and 1 only'):
    jax.eval_shape(lambda: make(twos))


@pytest.mark.parametrize(
  'rule', [scl_jax.dynamic_sparse_training, scl_jax.soft_threshold]
)
def test_a_mask_optimizer_that_is_none_is_refused_by_name(rule):
  with pytest.raises(ValueError, match=r'mask_optimizer must be .* got 0\.01'):
    rule(0.1, mask_optimizer=0.01)


@pytest.mark.parametrize(
  ('rule', 'name'),
  [
    (scl_jax.rigl, 'target_density'),
    (scl_jax.rigl, 'end_step'),
    (scl_jax.rigl, 'update_every'),
    (scl_jax.rigl, 'initial_fraction'),
    (scl_jax.gradual_magnitude, 'end_step'),
    (scl_jax.gradual_magnitude, 'begin_step'),
    (scl_jax.snip, 'target_density'),
    (scl_jax.snip, 'num_batches'),
    (scl_jax.random_pruning, 'target_density'),
    (scl_jax.dynamic_sparse_training, 'penalty'),
    (scl_jax.soft_threshold, 'decay'),
    (scl_jax.soft_threshold, 'init_value'),
    (scl_jax.scl, 'init_value'),
    (scl_jax.scl, 'ramp'),
    (scl_jax.scl, 'feature_price'),
    (scl_jax.scl, 'mask_optimizer'),
  ],
)
def test_what_is_needed_is_not_none(rule, name):
  needed = {
    scl_jax.rigl: {'target_density': 0.1, 'end_step': 9, 'key': KEY},
    scl_jax.gradual_magnitude: {'target_density': 0.1, 'end_step': 9},
    scl_jax.random_pruning: {'key': KEY},
    scl_jax.snip: {'target_density': 0.1},
    scl_jax.soft_threshold: {'decay': 0.1},
    scl_jax.scl: {'penalty': 0.1},
  }
  with pytest.raises(ValueError, match=f'^{name} must be .*None'):
    rule(**{**needed.get(rule, {}), name: None})


@pytest.mark.parametrize('tolerance', [float('nan'), -1, None, '1'])
def test_tolerances(tolerance):
  fn, params = lambda p, x: x @ p['w'], {'w': jnp.eye(2)}
  for make in (scl_jax.compact, scl_jax.inference.compile):
    with pytest.raises(ValueError, match=r'^tolerance must be finite and >= 0'):
      make(fn, params, None, jnp.ones((1, 2)), tolerance=tolerance)


@pytest.mark.parametrize('use', [scl_jax.costs, scl_jax.compact])
def test_what_is_no_function_is_not_traced(use):
  with pytest.raises(TypeError, match=r"^fn must be a function .*got 'a'"):
    use('a', {'w': jnp.eye(2)}, *[None] * (use is scl_jax.compact), jnp.eye(2))


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (
      lambda: scl_jax.scl(0.1, freeze_step=2**31),
      r'freeze_step .* below 2\^31',
    ),
    (lambda: scl_jax.scl(0.1, mask_dtype='x'), "mask_dtype must .* got 'x'"),
    (lambda: scl_jax.scl(0.1, mask_dtype=np.ones(2)), 'mask_dtype must be'),
    (lambda: scl_jax.scl(0.1, estimator={}), 'estimator must be one of'),
    (lambda: scl_jax.scl(0.1, penalty_order=np.ones(2)), 'penalty_order must'),
    (lambda: scl_jax.scl(0.1, granularity=np.ones(2)), 'granularity must be'),
    (lambda: scl_jax.scl(0.1, granularity=(True, 2)), 'granularity must be'),
    (lambda: scl_jax.unit_step({'a': jnp.ones(2)}), 'mask_params must be one'),
    (lambda: scl_jax.unit_step(None), 'mask_params must be one array'),
    (lambda: scl_jax.unit_step('a'), 'mask_params must be one array'),
    (
      lambda: scl_jax.prunable(_weights(), lambda path, leaf: np.ones(2)),
      r'prunable must answer True or False, got array\(',
    ),
    (
      lambda: scl_jax.scl(target_macs=0.5, costs='x', freeze_step=9).init(
        _weights()
      ),
      'costs must hold one number',
    ),
  ],
)
def test_what_is_of_another_kind(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_what_is_as_good():
  block = (np.int64(2), np.int64(2))
  variables = scl_jax.init_mask_params(
    {'w': jnp.ones((4, 4))}, granularity=block
  )
  assert variables['w'].shape == (2, 2)
  assert scl_jax.apply_masks({'w': 2.0}, {'w': 1.0}) == {'w': 2.0}
  tx = scl_jax.sparsify(optax.sgd(0.1), scl_jax.scl(0.1))
  params = {'w': jnp.ones((2, 2)), 'scale': 1.0}
  updates, _ = tx.update(params, tx.init(params), params)
  np.testing.assert_allclose(updates['scale'], -0.1, rtol=1e-6)
