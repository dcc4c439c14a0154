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
"""The public API: documented, annotated, options by keyword, a light import."""

import inspect
import subprocess
import sys

import pytest

import scl_jax

FUNCTIONS = [
  (name, value)
  for name, value in inspect.getmembers(scl_jax)
  if not name.startswith('_') and inspect.isfunction(value)
]
CLASSES = [
  (name, value)
  for name, value in inspect.getmembers(scl_jax)
  if not name.startswith('_') and inspect.isclass(value)
]


@pytest.mark.parametrize(('name', 'value'), FUNCTIONS + CLASSES)
def test_is_documented(name, value):
  assert value.__doc__, name
  if inspect.isfunction(value):
    arguments = inspect.signature(value).parameters
    if arguments:
      assert 'Args:' in value.__doc__
      for argument in arguments:
        assert f'{argument}:' in value.__doc__, (name, argument)
    if inspect.signature(value).return_annotation is not None:
      assert 'Returns:' in value.__doc__


@pytest.mark.parametrize(('name', 'value'), FUNCTIONS)
def test_is_annotated(name, value):
  signature = inspect.signature(value)
  for parameter in signature.parameters.values():
    assert parameter.annotation is not parameter.empty, (name, parameter)
  assert signature.return_annotation is not signature.empty, name


@pytest.mark.parametrize(('name', 'value'), FUNCTIONS)
def test_options_are_few_or_by_keyword(name, value):
  """At most two arguments that can be positional have a default."""
  positional = [
    parameter
    for parameter in inspect.signature(value).parameters.values()
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    and parameter.default is not parameter.empty
  ]
  assert len(positional) <= 2, name


def test_the_issue_names_are_there():
  names = (
    'unit_step init_mask_params effective_params connection_count '
    'apply_masks get_masks get_params density summary prunable '
    'normalize_by_feature_norm add_connection_penalty keep_params_in_box '
    'sparsify MaskRule scl gradual_magnitude rigl '
    'sparse_evolutionary_training snip random_pruning static_masks '
    'dynamic_sparse_training soft_threshold rewind layer_densities '
    'layer_budgets'
  )
  assert set(names.split()) <= set(dir(scl_jax))


def test_import_pulls_in_nothing_but_itself():
  code = (
    'import jax, optax, sys; before = set(sys.modules); import scl_jax;'
    'new = {m.split(".")[0] for m in set(sys.modules) - before};'
    'print(sorted(new - set(sys.stdlib_module_names)));'
    'print("scl_jax.graph" in sys.modules)'
  )
  output = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert output.stdout.split('\n')[:2] == ["['scl_jax']", 'False']


def test_what_is_imported_late():
  assert set(scl_jax._LATE) <= set(dir(scl_jax))
  for name, module in scl_jax._LATE.items():
    found = getattr(scl_jax, name)
    assert inspect.ismodule(found) == (module == f'scl_jax.{name}')
    if not inspect.ismodule(found):
      assert found.__module__.startswith(module)
      assert not module.endswith(f'.{name}')  # it would hide the function
  assert {'activity', 'gates', 'nnrelief', 'testing'} <= set(dir(scl_jax))
  with pytest.raises(AttributeError, match="'scl_jax' has no attribute 'prun'"):
    getattr(scl_jax, 'prun')
