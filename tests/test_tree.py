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
"""Tests of tree.py."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scl_jax import tree

pytestmark = pytest.mark.usefixtures('strict')


@jax.tree_util.register_pytree_with_keys_class
class Variable:
  """A leaf with an attribute `value`, as Flax NNX has them."""

  def __init__(self, value):
    self.value = value

  def tree_flatten_with_keys(self):
    return ((jax.tree_util.GetAttrKey('value'), self.value),), None

  @classmethod
  def tree_unflatten(cls, _, children):
    return cls(*children)


class Layer(NamedTuple):
  kernel: object
  bias: object


def test_paths_of_every_container():
  leaf = np.ones(2)
  params = {
    'dict': {'kernel': leaf},
    'list': [leaf, {'w': leaf}],
    'named': Layer(leaf, None),
    'nnx': {'kernel': Variable(leaf)},
    'tuple': (leaf,),
    'value': {'value': leaf},
  }
  assert tree.paths(params) == [
    'dict/kernel',
    'list/0',
    'list/1/w',
    'named/kernel',
    'nnx/kernel',
    'tuple/0',
    'value/value',
  ]


def test_the_root_has_an_empty_path():
  assert tree.paths(np.ones(2)) == ['']
  # A variable alone keeps its `.value`: something has to name it.
  assert tree.paths(Variable(1.0)) == ['value']


class Attention(NamedTuple):
  query: object
  value: object
  out: object = None


def test_a_field_value_keeps_its_name():
  params = {'a': Attention(1, 2), 'b': Attention({'w': 1}, Variable(2), 3)}
  paths = ['a/query', 'a/value', 'b/query/w', 'b/value', 'b/out']
  assert tree.paths(params) == paths
  # And so do the masks of some of them.
  assert tree.paths({'a': Attention(None, 2)}) == ['a/value']
  masks = {'a': {'value': 5}, 'b': {'out': 6}}
  rows = tree.zip_leaves(params, masks)
  assert [row[2] for row in rows] == [None, 5, None, None, 6]


class Moments(NamedTuple):
  count: object
  mu: object


class Head(NamedTuple):
  w: object


class Network(NamedTuple):
  mu: object
  w: object


@pytest.mark.parametrize(
  ('params', 'state', 'expected'),
  [
    ({'b': 1, 'w': 2}, Moments(0, {'b': 1, 'w': 2}), [None, 0, 1]),
    # What stands for a part, by a norm a feature say, and by nothing.
    ({'b': 1, 'w': 2}, [{'w': 5}, {'x': 5}], [1, None]),
    # `mu.w` is the end of the path of both moments.
    (
      Network(Head(1), 2),
      Moments(0, Network(Head(1), 2)),
      [None, 0, 1],
    ),
    ({'w': Variable(1)}, Moments(0, {'w': 2}), [None, 0]),
    (1, [2, 3], [0, 0]),
  ],
)
def test_owners(params, state, expected):
  assert tree.owners(state, params) == expected


def test_map_with_path_makes_and_skips_holes():
  params = {'a': 1, 'b': None, 'c': [2, 3]}
  seen = tree.map_with_path(
    lambda path, p, m: None if m is None else (path, p + m),
    params,
    {'a': 10, 'b': None, 'c': [None, 30]},
  )
  assert seen == {'a': ('a', 11), 'b': None, 'c': [None, ('c/1', 33)]}


def test_nothing_is_shared_twice_or_with_another_tree():
  mine, theirs = jnp.arange(3.0), jnp.ones(2)
  found = tree.unshared([mine, theirs, mine, None, 1], {'x': theirs})
  assert found[0] is mine
  assert found[2] is not mine
  assert found[1] is not theirs
  assert found[3:] == [None, 1]
  np.testing.assert_array_equal(found[2], mine)
  np.testing.assert_array_equal(found[1], theirs)


def test_zip_leaves_keeps_the_order_of_jax():
  params = {'z': 1, 'a': [2, 3], 'n': None}
  rows = tree.zip_leaves(params, {'z': None, 'a': [5, None], 'n': None})
  assert rows == [('a/0', 2, 5), ('a/1', 3, None), ('z', 1, None)]
  assert [row[1] for row in rows] == jax.tree.leaves(params)


def test_zip_leaves_goes_by_paths():
  params = {'a': [1, 2], 'nnx': Variable(3)}
  rows = tree.zip_leaves(params, {'a': {'1': 20}}, None, {'nnx': 30})
  assert rows == [
    ('a/0', 1, None, None, None),
    ('a/1', 2, 20, None, None),
    ('nnx', 3, None, None, 30),
  ]


@pytest.mark.parametrize('other', [{'b': 1}, {'a': {'x': 1}}, [1], 1])
def test_zip_leaves_raises_on_an_unknown_leaf(other):
  with pytest.raises(ValueError, match=r"The trees do not fit(.|\n)*'a'"):
    tree.zip_leaves({'a': 1}, other)


def test_listing_is_cut():
  text = tree.listing([f'p{i}' for i in range(35)])
  assert len(text.splitlines()) == 31
  assert text.endswith('... and 5 more')
  assert tree.listing([]).strip() == '(none)'


@pytest.mark.parametrize(
  ('leaf', 'expected'),
  [
    (1.0, True),
    (1, False),
    (True, False),
    (1j, True),
    (np.ones(2, np.float16), True),
    (np.ones(2, np.int8), False),
    (jnp.ones(2, jnp.bfloat16), True),
    (jnp.ones(2, bool), False),
  ],
)
def test_is_weight(leaf, expected):
  assert tree.is_weight(leaf) == expected


@pytest.mark.parametrize(
  'leaf',
  [1, 1.0, 1j, True, np.ones(2), jnp.ones(2, jnp.int32), jnp.ones(2, bool)],
)
def test_check_arrays_takes_numbers(leaf):
  tree.check_arrays({'a': leaf, 'b': None}, 'params')


@pytest.mark.parametrize(
  ('leaf', 'kind'),
  [
    ('text', 'str'),
    (jnp.tanh, '.*'),
    (object(), 'object'),
    (np.array(['a']), 'array of <U1'),
    (np.array([None]), 'array of object'),
  ],
)
def test_check_arrays_names_the_leaf(leaf, kind):
  with pytest.raises(ValueError, match=f"params must.*'a/1' is a {kind}"):
    tree.check_arrays({'a': [1.0, leaf]}, 'params')


def test_check_arrays_refuses_random_keys():
  with pytest.raises(ValueError, match=r"'key' is a array of key<fry>"):
    tree.check_arrays({'key': jax.random.key(0)}, 'params')


def test_check_same_structure_accepts_what_fits():
  params = {'w': jnp.ones((2, 3)), 'step': jnp.zeros((), jnp.int32), 'n': None}
  tree.check_same_structure(params, params, 'params', 'grads')
  # Integer leaves have no gradient to speak of: float0, None, anything.
  other = {'w': np.ones((2, 3)), 'step': np.zeros(5), 'n': None}
  tree.check_same_structure(params, other, 'params', 'grads')
  other = {'w': np.ones((2, 3)), 'step': None, 'n': None}
  tree.check_same_structure(params, other, 'params', 'grads')


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    ({'w': np.ones(2), 'c': np.ones(3)}, "not:\n  'c'\n(.|\n)*'b'\n  'w'"),
    ({'w': np.ones(2)}, "'b' is missing in grads"),
    ([np.ones(2), np.ones(3)], "grads must fit params.*not:\n  '0'\n  '1'"),
    ({'w': np.ones(3), 'b': np.ones(3)}, r"'w' is \(3,\) in grads and \(2,\)"),
    ({'w': None, 'b': np.ones(3)}, "'w' is missing in grads"),
    ({'w': {'x': np.ones(2)}, 'b': np.ones(3)}, "not:\n  'w/x'"),
  ],
)
def test_check_same_structure_names_what_does_not_fit(other, message):
  params = {'w': np.ones(2), 'b': np.ones(3)}
  with pytest.raises(ValueError, match=message):
    tree.check_same_structure(params, other, 'params', 'grads')
