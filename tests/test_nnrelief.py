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
"""Tests of nnrelief.py."""

import functools
import itertools
from typing import Any, NamedTuple

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import scl_jax
from scl_jax import activity
from scl_jax import nnrelief
from scl_jax.activity import Incoming

pytestmark = pytest.mark.usefixtures('strict')


class _Held(NamedTuple):
  masks: Any


_ALPHAS = st.floats(0.05, 1.0)
_SEEDS = st.integers(0, 2**32 - 1)
_score = jax.jit(activity.dense_scores)
_keep = jax.jit(nnrelief.keep_share, static_argnames='cut')


def _layer(seed, inputs=6, units=4, examples=5):
  """A random layer and batch, with some exact zeros."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: (
    rng.normal(size=shape) * (rng.uniform(size=shape) > 0.2)
  ).astype(np.float32)
  return draw(inputs, units), draw(units), draw(examples, inputs)


def _stack(incoming):
  return np.concatenate([incoming.kernel, incoming.bias[None]]).astype(float)


def _cut_in_numpy(scores, alpha, cut):
  """Sorts each unit and walks down until the share is reached."""
  masks = np.zeros_like(scores)
  for j, column in enumerate(scores.T):
    falling, walked, p = sorted(column, reverse=True), 0.0, 0
    while p < len(column) - 1 and walked + falling[p] < alpha * column.sum():
      walked += falling[p]
      p += 1
    if cut == 'paper':
      masks[:, j] = (column >= falling[p]) & (column > 0)
    else:
      masks[:, j] = column > falling[min(p + 1, len(column) - 1)]
  return masks


class TestKeepShare:
  @hypothesis.given(seed=_SEEDS, alpha=_ALPHAS)
  @pytest.mark.parametrize('cut', nnrelief.Cut.__args__)
  def test_against_a_walk_down_the_sorted_scores(self, seed, alpha, cut):
    # Whole numbers: sums are exact in any order, and there are ties.
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (7, 4)).astype(np.float32)
    alpha = round(alpha * 64) / 64
    hypothesis.assume(alpha > 0)
    keep = nnrelief.keep_share(
      Incoming(scores[:-1], scores[-1]), alpha, cut=cut
    )
    expected = _cut_in_numpy(scores.astype(float), alpha, cut)
    np.testing.assert_array_equal(_stack(keep), expected)

  @hypothesis.given(seed=_SEEDS)
  def test_all_of_the_activity_is_all_but_zeros(self, seed):
    kernel, bias, x = _layer(seed, inputs=40)
    # Scores of 1e-12, which float32 loses when it is added to 1.
    kernel[::2] *= 1e-12
    scores = _score(kernel, bias, x)
    masks = _keep(scores, 1.0)
    np.testing.assert_array_equal(_stack(masks), _stack(scores) != 0)

  @hypothesis.given(seed=_SEEDS, alpha=_ALPHAS)
  def test_the_kept_share_is_the_least_that_reaches_alpha(self, seed, alpha):
    scores = _stack(_score(*_layer(seed)))
    masks = _stack(
      _keep(Incoming(*map(np.float32, (scores[:-1], scores[-1]))), alpha)
    )
    for s, mask in zip(scores.T, masks.T, strict=True):
      if s.sum() == 0:
        assert not mask.any()
        continue
      smallest = s[mask > 0].min()
      assert (s * mask).sum() >= alpha - 1e-5
      assert s[s > smallest].sum() < alpha + 1e-5

  @hypothesis.given(seed=_SEEDS, alphas=st.tuples(_ALPHAS, _ALPHAS))
  def test_masks_are_nested(self, seed, alphas):
    scores = _score(*_layer(seed))
    less, more = (_stack(_keep(scores, alpha)) for alpha in sorted(alphas))
    assert (less <= more).all()

  @hypothesis.given(seed=_SEEDS, power=st.integers(-8, 8), alpha=_ALPHAS)
  def test_the_scale_of_a_unit_and_the_order_of_inputs(
    self, seed, power, alpha
  ):
    kernel, bias, x = _layer(seed)
    masks = _keep(_score(kernel, bias, x), alpha)
    scale = np.float32([1, -(2.0**power), 1, 1])
    scaled = _keep(_score(kernel * scale, bias * scale, x), alpha)
    np.testing.assert_array_equal(_stack(scaled), _stack(masks))
    order = np.random.default_rng(seed).permutation(len(kernel))
    permuted = _score(kernel[order], bias, x[:, order])
    # Sums in another order may differ in the last place, and so may the cut.
    original = _score(kernel, bias, x)
    np.testing.assert_allclose(
      permuted.kernel, original.kernel[order], rtol=1e-5
    )
    exact = Incoming(original.kernel[order], original.bias)
    np.testing.assert_array_equal(
      _keep(exact, alpha).kernel, masks.kernel[order]
    )

  @hypothesis.given(seed=_SEEDS)
  @hypothesis.settings(max_examples=8)
  @pytest.mark.parametrize('scale', [-1e-36, 1e-21, 1e19, 1e36])
  @pytest.mark.parametrize('norm', ['dense', *activity.Norm.__args__])
  def test_the_scale_of_a_unit_within_all_of_float32(self, seed, scale, norm):
    kernel, bias, x = _layer(seed)
    # Nothing smaller than a normal number: XLA takes that for 0.
    kernel, bias = (np.where(abs(a) < 0.05, 0, a) for a in (kernel, bias))
    scales = np.float32([1, scale, 1, scale])
    score = activity.dense_scores
    if norm != 'dense':
      kernel = kernel.reshape(3, 2, 4)
      x = np.abs(x).reshape(5, 3, 2)
      score = functools.partial(activity.conv_scores, norm=norm)
    plain, scaled = (
      score(kernel, bias, x),
      score(kernel * scales, bias * scales, x),
    )
    np.testing.assert_allclose(_stack(scaled), _stack(plain), rtol=1e-4)
    for alpha in (0.55, 1.0):
      one, two = (_stack(_keep(scores, alpha)) for scores in (plain, scaled))
      sums = np.sort(_stack(plain), axis=0).cumsum(axis=0)
      # But where a cut hangs on the last places.
      safe = (abs(sums - (1 - alpha)) > 1e-4).all(axis=0) | (alpha == 1)
      np.testing.assert_array_equal(one[:, safe], two[:, safe])

  @pytest.mark.parametrize('scale', [1e-36, 1e-21, 1e19, 1e37])
  def test_the_scale_of_the_inputs(self, scale):
    kernel, _, x = _layer(0)
    plain, scaled = (
      _score(kernel, None, x * np.float32(s)) for s in (1, scale)
    )
    np.testing.assert_allclose(scaled.kernel, plain.kernel, rtol=1e-5)
    plain, scaled = (
      activity.conv_scores(kernel[None], None, x[:, None] * np.float32(s))
      for s in (1, scale)
    )
    np.testing.assert_allclose(scaled.kernel, plain.kernel, rtol=1e-5)

  @pytest.mark.parametrize('cut', nnrelief.Cut.__args__)
  def test_scores_that_are_not_finite(self, cut):
    for bad in (np.nan, np.inf):
      scores = Incoming(jnp.array([[0.5, bad], [0.5, 0.1]]), jnp.zeros(2))
      with pytest.raises(ValueError, match='scores must be finite, but 1 of'):
        nnrelief.keep_share(scores, 0.9, cut=cut)
      masks = _keep(scores, 0.9, cut=cut)  # under jit
      assert np.isfinite(_stack(masks)[:, 0]).all()
      assert np.isnan(_stack(masks)[:, 1]).all()

  def test_shapes_that_do_not_fit(self):
    kernel = jnp.ones((3, 2))
    pair: Any = (kernel, None)
    assert nnrelief.keep_share(pair, 1.0).kernel.all()
    for bad in ((kernel, jnp.ones(3)), (jnp.ones(3), None), kernel):
      with pytest.raises(ValueError, match=r'scores must .*\[inputs, units\]'):
        nnrelief.keep_share(bad, 0.9)

  def test_ties(self):
    scores = Incoming(jnp.full((4, 1), 0.25), None)
    assert nnrelief.keep_share(scores, 0.5).kernel.sum() == 4
    assert nnrelief.keep_share(scores, 0.5, cut='released').kernel.sum() == 0

  def test_under_vmap_over_alpha(self):
    scores = _score(*_layer(3))
    alphas = jnp.array([0.3, 0.7, 1.0])
    many = jax.vmap(nnrelief.keep_share, (None, 0))(scores, alphas)
    for index, alpha in enumerate(alphas):
      one = nnrelief.keep_share(scores, alpha)
      np.testing.assert_array_equal(many.kernel[index], one.kernel)

  def test_bad_arguments(self):
    scores = Incoming(jnp.ones((2, 2)), None)
    for alpha in (0.0, 1.1, float('nan')):
      with pytest.raises(ValueError, match=r'alpha must be in \(0, 1\]'):
        nnrelief.keep_share(scores, alpha)
    with pytest.raises(ValueError, match="cut must be 'paper'"):
      nnrelief.keep_share(scores, 0.5, cut='code')
    with pytest.raises(ValueError, match='no inputs'):
      nnrelief.keep_share(Incoming(jnp.ones((0, 2)), None), 0.5)


class TestJoinMasks:
  def test_each_side_by_its_share(self):
    rng = np.random.default_rng(0)
    branch = rng.normal(size=(3, 4, 4, 5)).astype(np.float32)
    shortcut = rng.normal(size=branch.shape).astype(np.float32)
    branch[..., 0], shortcut[..., 1] = branch[..., 0] * 0.01, 0
    branch[..., 2] = shortcut[..., 2] = 0
    masks = nnrelief.join_masks(branch, shortcut, 0.9)
    for c in range(5):
      sides = [
        np.sqrt((np.abs(s[..., c]).mean(0) ** 2).sum())
        for s in (branch, shortcut)
      ]
      for side in range(2):
        row = np.zeros(5)
        row[c] = not sides[side] < 0.1 * sum(sides)
        np.testing.assert_array_equal(masks.kernel[side * 5 + c], row)
    assert masks.bias is None
    assert masks.kernel.sum() == 8

  def test_bad_arguments(self):
    with pytest.raises(ValueError, match=r'one shape, got \(2, 3\) and'):
      nnrelief.join_masks(np.ones((2, 3)), np.ones((2, 4)), 0.9)
    for side in (np.ones(3), np.float32(1), np.ones((0, 3))):
      with pytest.raises(ValueError, match=r'must be \[examples, \*spatial'):
        nnrelief.join_masks(side, side, 0.9)

  @pytest.mark.parametrize('scale', [1e-30, 1e30])
  def test_sides_of_any_size(self, scale):
    branch, shortcut = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    shortcut[:, :2] *= 0.01
    masks = nnrelief.join_masks(branch, shortcut, 0.9)
    scaled = nnrelief.join_masks(branch * scale, shortcut * scale, 0.9)
    np.testing.assert_array_equal(masks.kernel, scaled.kernel)
    assert masks.kernel.any()

  def test_sides_that_are_not_finite(self):
    good = jnp.ones((2, 3))
    bad = good.at[0, 1].set(jnp.nan)
    with pytest.raises(ValueError, match='shortcut must be finite'):
      nnrelief.join_masks(good, bad, 0.9)
    with pytest.raises(ValueError, match='branch must be finite'):
      nnrelief.join_masks(bad, good, 0.9)
    masks = jax.jit(nnrelief.join_masks)(good, bad, 0.9)
    sides = masks.kernel.reshape(2, 3, 3).diagonal(axis1=1, axis2=2)
    np.testing.assert_array_equal(sides, [[1, np.nan, 1]] * 2)


class TestBackwardSweep:
  def test_a_chain_falls_from_its_end(self):
    masks = {
      'a': Incoming(jnp.ones((2, 3)), jnp.ones(3)),
      'b': Incoming(jnp.eye(3), jnp.ones(3)),
      'c': Incoming(jnp.array([[1.0], [0.0], [1.0]]), jnp.ones(1)),
    }
    eye = np.eye(3, dtype=bool)
    feeds = {('a', 'b'): eye, ('b', 'c'): eye}
    swept, read = nnrelief.backward_sweep(masks, feeds, {'c': [True]})
    for name in 'ab':
      np.testing.assert_array_equal(read[name], [1, 0, 1])
      np.testing.assert_array_equal(swept[name].bias, [1, 0, 1])
      np.testing.assert_array_equal(swept[name].kernel[:, 1], 0)
    assert swept['a'].kernel.sum() == 4
    assert swept['c'] is not masks['c']
    np.testing.assert_array_equal(swept['c'].kernel, masks['c'].kernel)

  @hypothesis.given(seed=_SEEDS)
  def test_logits_stay(self, seed):
    """With sigmoids, so that nothing follows from a unit being 0."""
    rng = np.random.default_rng(seed)
    sizes = [3, 5, 5, 2]
    names = ['first', 'second', 'third']
    layers, masks = {}, {}
    for name, shape in zip(names, itertools.pairwise(sizes), strict=True):
      layers[name] = Incoming(rng.normal(size=shape), rng.normal(size=shape[1]))
      open_ = rng.uniform(size=shape) < 0.2
      masks[name] = Incoming(
        jnp.asarray(open_, jnp.float32), jnp.ones(shape[1])
      )
    eye = np.eye(5, dtype=bool)
    feeds = {('first', 'second'): eye, ('second', 'third'): eye}
    swept, read = nnrelief.backward_sweep(masks, feeds, {'third': [True] * 2})
    x = rng.normal(size=(4, 3))

    def logits(masks):
      h = x
      for name in names:
        (w, b), (m, n) = layers[name], masks[name]
        h = 1 / (1 + np.exp(-(h @ (w * np.asarray(m)) + b * np.asarray(n))))
      return h

    np.testing.assert_allclose(logits(swept), logits(masks), rtol=1e-12)
    for name, following in [('first', 'second'), ('second', 'third')]:
      has_reader = np.asarray(swept[following].kernel).any(axis=1)
      np.testing.assert_array_equal(read[name], has_reader)

  def test_pairs_must_be_in_order(self):
    masks = {n: Incoming(jnp.ones((1, 1)), None) for n in 'ab'}
    for pair in (('b', 'a'), ('a', 'x'), ('a', 'a')):
      with pytest.raises(ValueError, match='pairs'):
        nnrelief.backward_sweep(masks, {pair: np.eye(1, dtype=bool)}, {})

  @pytest.mark.parametrize(
    ('feed', 'in_output', 'message'),
    [
      (np.eye(2, dtype=bool), {'lats': [True]}, r"in_output names \['lats'\]"),
      (np.eye(2, dtype=bool), {'b': [True]}, r"in_output\['b'\] must be bool"),
      (np.eye(2), {'b': [True] * 3}, r'must be bool \(2, 2\), got float'),
      (np.eye(3, dtype=bool), {'b': [True] * 3}, r'got bool \(3, 3\)'),
      (np.ones(2, dtype=bool), {'b': [True] * 3}, r'got bool \(2,\)'),
    ],
  )
  def test_what_does_not_fit(self, feed, in_output, message):
    masks = {
      'a': Incoming(jnp.ones((1, 2)), None),
      'b': Incoming(jnp.ones((2, 3)), None),
    }
    with pytest.raises(ValueError, match=message):
      nnrelief.backward_sweep(masks, {('a', 'b'): feed}, in_output)

  def test_units_to_keep_must_be_as_many(self):
    masks = Incoming(jnp.ones((2, 2)), None)
    for keep in ([True], True, [True] * 3, [1.0, 0.0]):
      with pytest.raises(ValueError, match=r'keep must be bool \(2,\)'):
        nnrelief.remove_units(masks, keep)


def test_masked_weights_stay_zero_through_momentum_and_weight_decay():
  kernel, bias, x = _layer(0)
  masks = _keep(_score(kernel, bias, x), 0.6)._asdict()
  assert 0 < masks['kernel'].sum() < masks['kernel'].size
  params = {'kernel': jnp.asarray(kernel), 'bias': jnp.asarray(bias)}

  rule = scl_jax.MaskRule(lambda weights: _Held(masks), lambda g, s, w: s)
  optimizer = optax.chain(
    optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9)
  )
  tx = scl_jax.sparsify(optimizer, rule)
  state = tx.init(params)
  for step in range(5):
    grads = jax.tree.map(lambda p: jnp.ones_like(p) + p * step, params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    for name, mask in masks.items():
      closed = np.asarray(params[name])[np.asarray(mask) == 0]
      np.testing.assert_array_equal(closed, 0)
      assert np.asarray(params[name])[np.asarray(mask) > 0].all()
