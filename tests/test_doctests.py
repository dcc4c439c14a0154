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
"""Every example in a docstring runs and shows what it says."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import optax
import pytest

import scl_jax

MODULES = [
  module.name for module in pkgutil.walk_packages(scl_jax.__path__, 'scl_jax.')
]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  if name.startswith('scl_jax.inference'):
    pytest.importorskip('numba')
  module = importlib.import_module(name)
  names = {'jax': jax, 'jnp': jnp, 'optax': optax, 'scl_jax': scl_jax}
  result = doctest.testmod(module, extraglobs=names)
  assert result.failed == 0


def test_there_are_examples():
  finder = doctest.DocTestFinder(exclude_empty=True)
  found = [
    test
    for name in MODULES
    if name != 'scl_jax.inference.vectors'  # needs numba
    for test in finder.find(importlib.import_module(name))
    if test.examples
  ]
  assert len(found) > 15
