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
"""Tests of activity.py."""

from flax import linen as nn
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import activity

pytestmark = pytest.mark.usefixtures('strict')

_SEEDS = st.integers(0, 2**32 - 1)
_score = jax.jit(activity.dense_scores)


def _layer(seed, inputs=6, units=4, examples=5):
  """A random layer and batch, with some exact zeros."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: (
    rng.normal(size=shape) * (rng.uniform(size=shape) > 0.2)
  ).astype(np.float32)
  return draw(inputs, units), draw(units), draw(examples, inputs)


def _stack(incoming):
  return np.concatenate([incoming.kernel, incoming.bias[None]]).astype(float)


def _dense_in_numpy(kernel, bias, x):
  """The formula of the paper, connection by connection."""
  inputs, units = kernel.shape
  strength = np.zeros((inputs + 1, units))
  for j in range(units):
    for i in range(inputs):
      strength[i, j] = np.mean([abs(kernel[i, j] * row[i]) for row in x])
    strength[inputs, j] = abs(bias[j])
  total = strength.sum(axis=0)
  return strength / np.where(total > 0, total, 1)


def _maps(kernel, x, strides, pads, dilation):
  """|K_ij| * |x_ni| by loops over positions: [n, i, j, height, width]."""
  x = np.pad(np.abs(x), [(0, 0), *pads, (0, 0)])
  kernel = np.abs(kernel)
  height, width = kernel.shape[:2]
  reach = [(k - 1) * d + 1 for k, d in zip((height, width), dilation)]
  size = [(x.shape[1 + a] - reach[a]) // strides[a] + 1 for a in range(2)]
  maps = np.zeros((len(x), *kernel.shape[2:], *size))
  for r in range(size[0]):
    for c in range(size[1]):
      top, left = r * strides[0], c * strides[1]
      rows = slice(top, top + reach[0], dilation[0])
      columns = slice(left, left + reach[1], dilation[1])
      maps[..., r, c] = np.einsum('nhwi,hwij->nij', x[:, rows, columns], kernel)
  return maps


class TestDenseScores:
  @hypothesis.given(seed=_SEEDS)
  def test_against_loops(self, seed):
    kernel, bias, x = _layer(seed)
    np.testing.assert_allclose(
      _stack(_score(kernel, bias, x)),
      _dense_in_numpy(kernel, bias, x),
      rtol=1e-5,
    )

  @hypothesis.given(seed=_SEEDS)
  def test_scores_of_a_unit_sum_to_one(self, seed):
    kernel, bias, x = _layer(seed)
    kernel[:, 0] = bias[0] = 0
    scores = _stack(_score(kernel, bias, x))
    np.testing.assert_array_equal(scores[:, 0], 0)
    sums = scores.sum(axis=0)
    np.testing.assert_allclose(sums[sums > 0], 1, rtol=1e-5)

  def test_an_input_that_is_always_zero_scores_zero(self):
    kernel, bias, x = _layer(0)
    x[:, 2] = 0
    np.testing.assert_array_equal(_score(kernel, bias, x).kernel[2], 0)

  def test_without_a_bias_and_in_bfloat16(self):
    kernel, _, x = _layer(1)
    half = jnp.asarray(kernel, jnp.bfloat16)
    scores = _score(half, None, jnp.asarray(x, jnp.bfloat16))
    assert scores.bias is None
    assert scores.kernel.dtype == jnp.float32
    expected = _score(kernel, None, x).kernel
    np.testing.assert_allclose(scores.kernel, expected, atol=0.02)

  @pytest.mark.parametrize('name', ['kernel', 'bias', 'inputs'])
  def test_complex_numbers(self, name):
    arrays = {'kernel': np.ones((3, 2)), 'bias': np.ones(2)}
    arrays['inputs'] = np.ones((5, 3))
    arrays[name] = 1j * arrays[name]
    with pytest.raises(ValueError, match=f'{name} must hold real numbers'):
      activity.dense_scores(**arrays)

  @pytest.mark.parametrize(
    ('kernel', 'bias', 'x', 'message'),
    [
      ((3, 2), (2,), (5, 3, 3), r'inputs \(5, 3, 3\)'),
      ((3, 2), (2,), (5, 4), r'has 3 inputs, but inputs \(5, 4\) have 4'),
      ((3, 2), (3,), (5, 3), r'bias must be \(2,\).*got \(3,\)'),
      ((3, 2), (2,), (0, 3), 'no example'),
    ],
  )
  def test_shapes_that_do_not_fit(self, kernel, bias, x, message):
    with pytest.raises(ValueError, match=message):
      activity.dense_scores(np.ones(kernel), np.ones(bias), np.ones(x))


class TestConvScores:
  @pytest.mark.parametrize(
    ('padding', 'strides', 'dilation', 'pads'),
    [
      ('VALID', 1, 1, ((0, 0), (0, 0))),
      ('SAME', 1, 1, ((1, 1), (0, 1))),
      ('VALID', (2, 3), 1, ((0, 0), (0, 0))),
      (((2, 1), (0, 3)), 2, (2, 1), ((2, 1), (0, 3))),
    ],
  )
  @pytest.mark.parametrize('norm', activity.Norm.__args__)
  def test_against_an_explicit_convolution(
    self, padding, strides, dilation, pads, norm
  ):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 4, 5)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    x = rng.normal(size=(3, 9, 8, 4)).astype(np.float32)
    pair = lambda v: (v, v) if isinstance(v, int) else v
    maps = _maps(kernel, x, pair(strides), pads, pair(dilation))
    positions = maps.shape[-2] * maps.shape[-1]
    strength, weight = {
      'mean_of_norms': (np.linalg.norm(maps, axis=(3, 4)).mean(0), 0.5),
      'norm_of_mean': (np.linalg.norm(maps.mean(0), axis=(2, 3)), 0.5),
      'sum_of_mean': (maps.mean(0).sum(axis=(2, 3)), 1.0),
    }[norm]
    expected = np.concatenate(
      [strength, np.abs(bias)[None] * positions**weight]
    )
    scores = activity.conv_scores(
        kernel, bias, x, strides=strides, padding=padding,
        kernel_dilation=dilation, norm=norm,
    )  # fmt: skip
    np.testing.assert_allclose(
      _stack(scores), expected / expected.sum(axis=0), rtol=1e-5
    )

  @hypothesis.given(seed=_SEEDS)
  @hypothesis.settings(max_examples=10)
  def test_one_position_is_the_dense_rule(self, seed):
    kernel, bias, x = _layer(seed)
    scores = activity.conv_scores(kernel[None, None], bias, x[:, None, None])
    np.testing.assert_allclose(
      _stack(scores), _stack(_score(kernel, bias, x)), rtol=1e-5
    )

  def test_norms_of_one_example_agree_and_otherwise_are_ordered(self):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 2, 1)).astype(np.float32)
    x = rng.normal(size=(4, 6, 6, 2)).astype(np.float32)
    maps = _maps(kernel, x, (1, 1), ((1, 1), (1, 1)), (1, 1))
    of_mean = np.linalg.norm(maps.mean(0), axis=(2, 3))
    mean_of = np.linalg.norm(maps, axis=(3, 4)).mean(0)
    assert (of_mean < mean_of).all()
    one = [
      activity.conv_scores(kernel, None, x[:1], norm=norm).kernel
      for norm in ('mean_of_norms', 'norm_of_mean')
    ]
    np.testing.assert_allclose(*one, rtol=1e-6)

  def test_one_dimension(self):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 2, 4)).astype(np.float32)
    x = rng.normal(size=(5, 7, 2)).astype(np.float32)
    np.testing.assert_allclose(
      activity.conv_scores(kernel, None, x).kernel,
      activity.conv_scores(kernel[:, None], None, x[:, :, None]).kernel,
      rtol=1e-6,
    )

  @pytest.mark.parametrize(
    ('arguments', 'message'),
    [
      ({'padding': 'CIRCULAR'}, "got 'CIRCULAR'"),
      ({'padding': ((1, 1),)}, 'for 2 spatial axes'),
      ({'padding': (1, 1, 1)}, 'for 2 spatial axes'),
      ({'padding': (1, -1)}, 'number >= 0'),
      ({'padding': 1.0}, 'got 1.0'),
      ({'padding': None}, 'got None'),
      ({'padding': 'CAUSAL'}, "got 'CAUSAL'"),
      ({'strides': 2.0}, 'strides must be .*got 2.0'),
      ({'strides': 'two'}, "strides must be .*got 'two'"),
      ({'strides': (1, 2, 3)}, 'strides must be one whole number >= 1, or 2'),
      ({'kernel_dilation': 0}, 'kernel_dilation'),
      ({'norm': 'max'}, "got 'max'"),
      ({'kernel_dilation': 9, 'padding': 'VALID'}, 'does not fit'),
    ],
  )
  def test_bad_arguments(self, arguments, message):
    with pytest.raises(ValueError, match=message):
      activity.conv_scores(
        np.ones((3, 3, 2, 4)), None, np.ones((1, 5, 5, 2)), **arguments
      )

  @pytest.mark.parametrize(
    'options',
    [
      {'padding': 1},
      {'padding': (1, 2)},
      {'padding': ((1, 0), 2)},
      {'padding': 'same'},
      {'padding': 'SAME_LOWER', 'strides': 2},
      {'strides': None, 'kernel_dilation': None},
      {'strides': (1, 2), 'padding': 'valid'},
      {'kernel_size': (3,), 'padding': 'CAUSAL'},
      {'kernel_size': (3,), 'padding': 'CAUSAL', 'kernel_dilation': 2},
    ],
  )
  def test_what_flax_takes(self, options):
    """With one input channel the score is the norm of what the layer gives."""
    options = {'kernel_size': (3, 2), **options}
    size = options.pop('kernel_size')
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2, *(6, 5)[: len(size)], 1))
    x = jnp.asarray(x, jnp.float32)
    layer = nn.Conv(2, size, **options)
    kernel = jnp.asarray(rng.uniform(size=(*size, 1, 2)), jnp.float32)
    bias = jnp.array([1.0, 2.0])
    none = {'params': {'kernel': kernel, 'bias': jnp.zeros(2)}}
    maps = np.asarray(layer.apply(none, x))
    axes = tuple(range(1, maps.ndim - 1))
    strength = np.sqrt((maps**2).sum(axes)).mean(0)
    of_bias = np.asarray(bias) * np.sqrt(maps[0, ..., 0].size)
    scores = activity.conv_scores(kernel, bias, x, **options)
    np.testing.assert_allclose(
      scores.kernel[0], strength / (strength + of_bias), rtol=1e-5
    )

  def test_strides_of_numpy(self):
    kernel, x = np.ones((3, 3, 2, 4)), np.ones((1, 5, 5, 2))
    one = activity.conv_scores(kernel, None, x, strides=np.int64(2))
    two = activity.conv_scores(kernel, None, x, strides=np.array([2, 2]))
    np.testing.assert_array_equal(one.kernel, two.kernel)

  def test_bad_shapes(self):
    with pytest.raises(ValueError, match='in groups are not supported'):
      activity.conv_scores(np.ones((3, 1, 4)), None, np.ones((1, 5, 2)))
    with pytest.raises(ValueError, match=r'inputs \(5, 2\)'):
      activity.conv_scores(np.ones((3, 2, 4)), None, np.ones((5, 2)))
