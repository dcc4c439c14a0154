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
"""Tests of prunable.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax.prunable import default_prunable
from scl_jax.prunable import prunable

pytestmark = pytest.mark.usefixtures('strict')


@pytest.mark.parametrize(
  ('path', 'shape', 'expected'),
  [
    # Flax Linen
    ('params/Dense_0/kernel', (4, 3), True),
    ('params/Dense_0/bias', (3,), False),
    ('params/Conv_0/kernel', (3, 3, 1, 8), True),
    ('params/ConvTranspose_0/kernel', (3, 3, 1, 8), True),
    ('params/Embed_0/embedding', (100, 8), True),
    ('params/attention/query/kernel', (8, 2, 4), True),
    ('params/attention/query/bias', (2, 4), False),
    ('params/attention/out/kernel', (2, 4, 8), True),
    ('params/OptimizedLSTMCell_0/hi/kernel', (4, 4), True),
    ('params/BatchNorm_0/scale', (8,), False),
    ('params/LayerNorm_0/scale', (8,), False),
    ('params/LayerNorm_0/kernel', (8, 8), False),
    ('params/GroupNorm_0/weight', (8, 8), False),
    ('params/RMSNorm_0/weight', (8, 8), False),
    ('params/InstanceNorm_0/w', (8, 8), False),
    ('batch_stats/BatchNorm_0/mean', (8,), False),
    ('params/pos_embedding', (1, 16, 8), False),
    ('params/cls', (1, 1, 8), False),
    ('params/scale', (4, 4), False),
    # Flax NNX
    ('layers/0/kernel', (4, 3), True),
    ('linear/kernel', (4, 3), True),
    ('bn/scale', (8,), False),
    ('bn1/kernel', (8, 8), False),
    ('lora_a', (8, 2), False),
    # Equinox, PyTorch
    ('layers/0/weight', (3, 4), True),
    ('layers/0/bias', (3,), False),
    ('conv/bias', (8, 1, 1), False),
    ('norm/weight', (4, 4), False),
    ('norm1/weight', (4, 4), False),
    ('ln_1/weight', (4, 4), False),
    ('layer_norm/weight', (4, 4), False),
    ('blocks/3/layernorm/weight', (4, 4), False),
    ('cell/weight_ih', (12, 4), True),
    ('cell/weight_hh', (12, 4), True),
    ('embedding/weight', (100, 8), True),
    # Haiku
    ('mlp/~/linear_0/w', (4, 3), True),
    ('mlp/~/linear_0/b', (3,), False),
    ('conv2_d/w', (3, 3, 1, 8), True),
    ('embed/embeddings', (100, 8), True),
    ('batch_norm/scale', (1, 1, 1, 8), False),
    ('batch_norm/offset', (1, 1, 1, 8), False),
    ('layer_norm/w', (8, 8), False),
    # By hand
    ('w1', (4, 3), True),
    ('lstm/weight_hh_l0', (12, 4), True),
    ('weight_normed/weight_v', (4, 3), True),
    ('weight_normed/weight_g', (4, 1), False),
    ('spectral/weight_u', (1, 4), False),
    ('spectral/kernel_sigma', (1, 1), False),
    ('gated/w_g', (4, 3), True),
    ('gated/w_u', (4, 3), True),
    ('list/kernel_0', (4, 3), True),
    ('quantised/kernel_scale', (1, 4), False),
    ('quantised/weight_scale_inv', (1, 4), False),
    ('quantised/weight_zero_point', (1, 4), False),
    ('float8/kernel_amax_history', (1, 16), False),
    ('W', (4, 3), True),
    ('W_in', (4, 3), True),
    ('b1', (3,), False),
    ('weights/0', (4, 3), True),
    ('weights/0/1', (4, 3), True),
    ('layers/0', (4, 3), False),
    ('layers/0/0', (4, 3), False),
    ('width', (4, 3), False),
    ('words', (4, 3), False),
    ('w', (), False),
    ('kernel', (9,), False),
    ('PreNorm_0/Dense_0/kernel', (4, 3), True),
    ('AdaLayerNorm_0/Dense_0/kernel', (4, 3), True),
    ('blocks.3.norm1.weight', (4, 4), False),
    ('blocks.3.fc1.weight', (4, 4), True),
    ('normal/kernel', (4, 3), True),
    ('enormous/kernel', (4, 3), True),
    ('plan/kernel', (4, 3), True),
    # No names at all: the rank decides.
    ('', (4, 3), True),
    ('', (3,), False),
    ('0/1', (4, 3), True),
    ('0/1', (3,), False),
  ],
)
def test_default_rule(path, shape, expected):
  assert default_prunable(path, np.zeros(shape, np.float32)) is expected


@pytest.mark.parametrize(
  ('dtype', 'expected'),
  [
    (jnp.float16, True),
    (jnp.bfloat16, True),
    (jnp.float32, True),
    (jnp.int32, False),
    (jnp.bool_, False),
    (jnp.complex64, False),
  ],
)
def test_default_rule_wants_real_numbers(dtype, expected):
  assert default_prunable('kernel', jnp.zeros((2, 2), dtype)) is expected


def _params():
  return {
    'conv': {'kernel': jnp.ones((3, 3, 1, 4)), 'bias': jnp.ones(4)},
    'head': {'kernel': jnp.ones((4, 2)), 'bias': jnp.ones(2)},
    'count': jnp.zeros((2, 2), jnp.int32),
    'none': None,
  }


def _tree(conv=False, head=False, biases=False):
  return {
    'conv': {'kernel': conv, 'bias': biases},
    'head': {'kernel': head, 'bias': biases},
    'count': False,
    'none': None,
  }


@pytest.mark.parametrize(
  ('select', 'expected'),
  [
    (None, _tree(conv=True, head=True)),
    ('.*/kernel', _tree(conv=True, head=True)),
    ('head/kernel', _tree(head=True)),
    (['head/k.*', 'conv/kernel'], _tree(conv=True, head=True)),
    (('conv/.*', '.*/bias', 'head/.*'), _tree(True, True, True)),
    (lambda path, leaf: path.startswith('head') and leaf.ndim == 2,
     _tree(head=True)),
    (lambda path, leaf: np.bool_(leaf.ndim == 4), _tree(conv=True)),
    (_tree(conv=True), _tree(conv=True)),
  ],
)  # fmt: skip
def test_selections(select, expected):
  chosen = prunable(_params(), select)
  assert chosen == expected
  assert all(type(leaf) is bool for leaf in jax.tree.leaves(chosen))


def test_trees_without_names():
  params = [(jnp.ones((4, 3)), jnp.ones(3)), jnp.ones((3, 2)), None]
  assert prunable(params) == [(True, False), True, None]
  assert prunable(params, '0/0') == [(True, False), False, None]
  assert prunable(jnp.ones((2, 2))) is True


def test_shapes_are_enough():
  assert prunable(jax.eval_shape(_params)) == prunable(_params())


def test_static_under_jit():
  @jax.jit
  def total(params):
    chosen = prunable(params)
    return sum(
      p.sum()
      for p, c in zip(
        jax.tree.leaves(params), jax.tree.leaves(chosen), strict=True
      )
      if c
    )

  assert total(_params()) == 3 * 3 * 4 + 4 * 2


def _message(params, select):
  with pytest.raises(ValueError, match='prunable') as info:
    prunable(params, select)
  return str(info.value)


@pytest.mark.parametrize('select', ['kernel', ['.*/kernel', 'foot/kernel'], ''])
def test_a_pattern_without_a_match_lists_the_paths(select):
  message = _message(_params(), select)
  pattern = select if isinstance(select, str) else select[-1]
  assert f'pattern {pattern!r} matches no leaf' in message
  for path in ['conv/kernel', 'conv/bias', 'head/kernel', 'count']:
    assert path in message
  assert '(3, 3, 1, 4)' in message


@pytest.mark.parametrize(
  'select',
  [lambda path, leaf: False, _tree(), None],
  ids=['predicate', 'tree', 'None'],
)
def test_an_empty_selection_lists_the_paths(select):
  params = _params()
  if select is None:
    params = {'scale': jnp.ones((2, 2)), 'none': None}
  message = _message(params, select)
  assert 'selects no leaf' in message
  assert ('conv/kernel' if select is not None else 'scale') in message


def test_many_paths_are_cut():
  params = {f'p{i:02}': jnp.ones(1) for i in range(40)}
  message = _message(params, None)
  assert 'p29' in message
  assert 'p30' not in message
  assert '10 more' in message


def test_no_regular_expression():
  assert "'*/kernel' is no regular expression" in _message(
    _params(), '*/kernel'
  )


@pytest.mark.parametrize('dtype', [jnp.int32, jnp.bool_, jnp.complex64])
def test_selected_leaves_must_be_real(dtype):
  params = {'kernel': jnp.ones((2, 2)), 'x': jnp.ones((2, 2), dtype)}
  message = _message(params, '.*')
  assert f"selects 'x', which holds {jnp.dtype(dtype)}" in message


@pytest.mark.parametrize(
  'select',
  [
    {'conv': True},
    True,
    3,
    [],
    jax.tree.map(lambda _: 1.0, _params()),
    jax.tree.map(lambda _: np.bool_(True), _params()),
  ],
  ids=str,
)
def test_other_kinds_of_selection(select):
  message = _message(_params(), select)
  assert 'prunable must be None, patterns of paths' in message


def test_leaves_must_be_arrays():
  with pytest.raises(ValueError, match=r"params must.*'activation'"):
    prunable({'kernel': jnp.ones((2, 2)), 'activation': jnp.tanh})
