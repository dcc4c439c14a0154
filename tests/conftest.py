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
"""Eight fake devices, quick compiles, strict promotion, and properties."""

import atexit
import gc
import os
import shutil
import tempfile

# Before JAX starts its backend. Tests compile thousands of programs and run
# each for microseconds; without optimisations, and with XLA's older emitters of
# fusions, a training step compiles nine times as fast. Subprocesses inherit it.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    '--xla_backend_optimization_level=0',
    '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',
    '--xla_cpu_parallel_codegen_split_count=1',
  ]
)
# Nor does anybody read which lines of Python an operation comes from.
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'
# A cache of compiled programs for each worker and what it starts. They do not
# share one: JAX may read an entry that another process is still writing.
if worker := os.environ.get('PYTEST_XDIST_WORKER'):
  os.environ['JAX_COMPILATION_CACHE_DIR'] += f'/{worker}'
else:
  cache = tempfile.mkdtemp(prefix='scl_jax_tests_')
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = cache
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
# Processes that tests start import the same modules again and again.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile(
  'scl_jax', deadline=None, derandomize=True, max_examples=30, database=None
)
hypothesis.settings.load_profile('scl_jax')


# Traces leave many objects, few of which are garbage.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """Else they take gigabytes, and JAX caches no new ones after thousands."""
  yield
  jax.clear_caches()


@pytest.fixture(scope='module')
def strict():
  """No implicit promotion of dtypes or ranks.

  Not for all tests, because optax itself promotes: `optax.adam` raises a Python
  float to an int32 count. Per module, as Hypothesis wants no function fixture.
  """
  with (
    jax.numpy_dtype_promotion('strict'),
    jax.numpy_rank_promotion('raise'),
  ):
    yield


@pytest.fixture(params=['Auto', 'Explicit'])
def mesh(request):
  """A mesh of two fake devices, with an axis `'d'`."""
  kind = getattr(jax.sharding.AxisType, request.param)
  return jax.make_mesh((2,), ('d',), axis_types=(kind,))
