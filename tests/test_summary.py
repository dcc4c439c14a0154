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
"""Tests of summary.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax.macs import costs as count_costs
from scl_jax.summary import summary

pytestmark = pytest.mark.usefixtures('strict')


def _case():
  rng = np.random.default_rng(0)
  params = {
    'conv': {'kernel': jnp.ones((3, 3, 2, 5)), 'bias': jnp.ones(5)},
    'fc': {'kernel': jnp.ones((40, 60)), 'bias': jnp.ones(60)},
    'none': None,
  }
  masks = jax.tree.map(
    lambda p: (
      (rng.random(p.shape) < 0.05).astype(np.float32) if p.ndim > 1 else None
    ),
    params,
  )
  return params, masks


def _parse(table):
  """{layer: {column: text}}; checks that the lines are of one length."""
  lines = table.splitlines()
  assert len({len(line) for line in lines}) == 1
  head, rule, *rows = [
    [cell.strip() for cell in line.strip('|').split('|')] for line in lines
  ]
  assert all(set(cell) <= {'-', ':'} for cell in rule)
  return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


def _number(text):
  return int(text.replace(',', ''))


def _dead(mask):
  return int(np.sum(~mask.reshape(-1, mask.shape[-1]).any(axis=0)))


def test_numbers_against_numpy():
  params, masks = _case()
  table = _parse(summary(params, masks))
  kernels = {f'{name}/kernel': masks[name]['kernel'] for name in ('conv', 'fc')}
  assert list(table) == [*kernels, 'total']
  for name, mask in kernels.items():
    row = table[name]
    assert _number(row['connections']) == mask.size
    assert _number(row['live']) == mask.sum()
    assert row['density'] == f'{100 * mask.mean():.2f} %'
    assert _number(row['dead features']) == _dead(mask)
  assert table['conv/kernel']['shape'] == '3x3x2x5'
  assert table['fc/kernel']['connections'] == '2,400'
  total = table['total']
  size = sum(mask.size for mask in kernels.values())
  live = int(sum(mask.sum() for mask in kernels.values()))
  assert total == {
    'shape': '',
    'connections': f'{size:,}',
    'live': f'{live:,}',
    'density': f'{100 * live / size:.2f} %',
    'dead features': str(sum(map(_dead, kernels.values()))),
  }
  assert _dead(kernels['fc/kernel']) > 0


def test_macs():
  params, masks = _case()
  prices = jax.tree.map(lambda _: 0.0, params)
  prices['conv']['kernel'], prices['fc']['kernel'] = 49.0, 1.0
  table = _parse(summary(params, masks, costs=prices))
  live = [int(masks[name]['kernel'].sum()) for name in ('conv', 'fc')]
  assert _number(table['conv/kernel']['MACs']) == 49 * 90
  assert _number(table['conv/kernel']['live MACs']) == 49 * live[0]
  assert _number(table['fc/kernel']['live MACs']) == live[1]
  assert _number(table['total']['MACs']) == 49 * 90 + 2400
  assert _number(table['total']['live MACs']) == 49 * live[0] + live[1]


def test_speed_up():
  params = {'w': jnp.ones((4, 2)), 'v': jnp.ones((2, 2))}
  masks = {'w': jnp.eye(4, 2), 'v': jnp.zeros((2, 2))}
  table = _parse(summary(params, masks, costs={'w': 3.0, 'v': 1.0}))
  assert table['w']['speed-up'] == '4.00'  # 24 / 6
  assert table['v']['speed-up'] == '-'
  assert table['total']['speed-up'] == '4.67'  # 28 / 6


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_storage(dtype):
  rng = np.random.default_rng(0)
  params = {'w': jnp.ones((3, 3, 5, 7), dtype), 'b': jnp.ones(7, dtype)}
  mask = (rng.random((3, 3, 5, 7)) < 0.1).astype(np.float32)
  table = _parse(summary(params, {'w': mask, 'b': None}, storage=True))
  values = np.ones(int(mask.sum()), dtype)
  _, columns = np.nonzero(mask.reshape(45, 7))
  pointers = np.zeros(46, np.int32)
  assert _number(table['w']['bytes']) == params['w'].nbytes
  bits = np.packbits(mask.astype(bool))
  assert _number(table['w']['bitmask']) == bits.nbytes + values.nbytes
  csr = values.nbytes + columns.astype(np.int32).nbytes + pointers.nbytes
  assert _number(table['w']['CSR']) == csr
  assert table['total']['CSR'] == table['w']['CSR']


def test_macs_from_costs():
  params = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}
  prices = count_costs(
    lambda p, x: x @ p['w'] + p['b'][None], params, jnp.ones((1, 3))
  )
  mask = jnp.zeros((3, 2)).at[0, 0].set(1.0)
  table = _parse(summary(params, {'w': mask, 'b': None}, costs=prices))
  assert table['w']['MACs'] == table['total']['MACs'] == '6'
  assert table['w']['live MACs'] == table['total']['live MACs'] == '1'


def test_open_feature_axes_are_a_question_mark():
  params = {'proj': {'kernel': jnp.ones((8, 2, 4))}, 'w': jnp.ones((3, 2))}
  masks = {'proj': {'kernel': np.zeros((8, 2, 4))}, 'w': np.zeros((3, 2))}
  table = _parse(summary(params, masks))
  assert table['proj/kernel']['dead features'] == '?'
  assert table['w']['dead features'] == '2'
  assert table['total']['dead features'] == '2'
  axes = {'proj/.*': (-2, -1)}
  table = _parse(summary(params, masks, feature_axes=axes))
  assert table['proj/kernel']['dead features'] == '8'
  with pytest.raises(ValueError, match='feature_axes'):
    summary(params, masks, feature_axes=(5,))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_one_leaf_without_a_name(dtype):
  table = _parse(summary(jnp.ones((2, 2)), jnp.eye(2, dtype=dtype)))
  assert table['']['live'] == '2'
  assert table['total']['density'] == '50.00 %'


def test_an_empty_leaf():
  params = {'v': jnp.ones((0, 3)), 'w': jnp.ones((1, 2))}
  table = _parse(summary(params, params))
  assert table['v']['density'] == '-'
  assert table['total']['density'] == '100.00 %'


@pytest.mark.parametrize(
  ('masks', 'message'),
  [
    ({'w': None, 'b': None}, 'masks holds no array'),
    ({'w': np.ones((3, 2)), 'c': np.ones(2)}, "do not fit(.|\\n)*'c'"),
    ({'w': np.ones((1, 2)), 'b': None}, r"masks.*'w' is \(1, 2\) in masks"),
  ],
)
def test_errors(masks, message):
  params = {'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}
  with pytest.raises(ValueError, match=message):
    summary(params, masks)


def test_costs_must_fit():
  params, masks = _case()
  with pytest.raises(ValueError, match=r"do not fit(.|\n)*'conv'"):
    summary(params, masks, costs={'conv': 1.0})
  for cost in (np.nan, np.ones(2)):
    with pytest.raises(ValueError, match="MACs of a connection, but 'conv/ke"):
      summary(params, masks, costs={'conv': {'kernel': cost}})
  table = _parse(summary(params, masks, costs={'conv': {'kernel': 1.0}}))
  assert table['fc/kernel']['MACs'] == table['fc/kernel']['live MACs'] == '?'
  assert table['total']['MACs'] == '90'
