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
"""What is read from compiled programs, against programs that are known."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sharding
from experiments.benchmarks import collectives
from experiments.benchmarks import decoder
from experiments.benchmarks import scale

ROOT = pathlib.Path(__file__).parents[2]
AUTO = (jax.sharding.AxisType.Auto,)
TINY = decoder.Decoder(16, 3, 4, 2, 24, 64)


def compiled(fn, *shapes):
  """A program of 8 devices, each of which runs `fn`."""
  mesh = jax.make_mesh((8,), ('d',), axis_types=AUTO)
  mapped = jax.shard_map(
    fn, mesh=mesh, in_specs=jax.P('d'), out_specs=jax.P(), check_vma=False
  )
  arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jax.jit(mapped).lower(*arguments).compile().as_text()


def test_one_of_each_and_loops():
  def fn(x):  # [2, 5] on each device
    whole = jax.lax.all_gather(x, 'd')  # 8 times as much
    body = lambda _, y: jax.lax.psum(jnp.sin(y), 'd')
    return jax.lax.fori_loop(0, 7, body, whole.sum(0))

  found = collectives.traffic(compiled(fn, (16, 5)))
  assert found == (4 * (8 * 10 + 7 * 10),) * 2


def test_branches():
  def fn(x):
    is_big = x[0, 0] > 0
    total = jax.lax.psum(x[:, :1], 'd')
    more = lambda: jax.lax.psum(jnp.cos(x), 'd')
    return jax.lax.cond(is_big, more, lambda: x) + total

  found = collectives.traffic(compiled(fn, (16, 5)))
  assert found == (4 * 2, 4 * (2 + 10))


def test_a_loop_of_unknown_length():
  def fn(x):
    body = lambda y: jax.lax.psum(jnp.sin(y), 'd')
    return jax.lax.while_loop(lambda y: y[0, 0] > 0.1, body, x)

  with pytest.raises(ValueError, match='not known how often this loop runs'):
    collectives.traffic(compiled(fn, (16, 5)))


def test_asynchronous_collectives_are_refused():
  line = '  %x = (f32[2]{0}, f32[16]{0}) all-gather-start(%y)'
  with pytest.raises(ValueError, match='asynchronous'):
    collectives.traffic('ENTRY %main (a: f32[2]) -> f32[16] {\n' + line)


def test_the_bytes_of_a_device():
  mesh = jax.make_mesh((2, 2, 2), sharding.AXES, axis_types=AUTO * 3)
  found = {}
  for method in scale.METHODS:
    job = scale.decoder_job(TINY, method=method, sequences=4, length=8)
    if method == 'lean':
      job = scale.without_params(job)
    found[method] = scale.compile_job(job, mesh)
  # By hand: what is stacked is prunable and divided by fsdp and tensor, norms
  # are copied.
  prunable = 3 * 16 * (16 + 8 + 8 + 16 + 3 * 24)
  whole = 3 * 2 * 16 + 16
  params = 4 * ((prunable + 2 * 64 * 16) // 4 + whole)
  parts = found['scl']['state']
  assert parts['params'] == parts['weights'] == params
  assert parts['mask_params'] == prunable
  assert parts['moments'] == 2 * params
  assert found['dense']['state'] | {'other': 0} == {
    'params': params,
    'weights': 0,
    'mask_params': 0,
    'moments': 2 * params,
    'other': 0,
  }
  lean = found['lean']['state']
  assert lean == parts | {'params': 0, 'mask_params': prunable // 2}
  # Norms of features, and little else.
  scl, dense = (found[m]['collectives'] for m in ('scl', 'dense'))
  features = 3 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
  assert dense <= scl <= dense + 100
  assert 0 < found['scl']['collectives_most'] - scl <= 4 * features + 100


def test_an_untrained_decoder_thinks_all_tokens_are_likely():
  mesh = jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=AUTO * 3)
  with sharding.use(mesh):
    params = jax.jit(TINY.init)(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (4, 9), 0, 64)
    loss = jax.jit(TINY.loss)(params, tokens)
  np.testing.assert_allclose(loss, math.log(64), rtol=0.02)
  shapes = jax.eval_shape(TINY.init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(
    jnp.shape, TINY.shapes()
  )


def test_the_page_has_the_table():
  report = json.loads((ROOT / 'experiments/results/scale.json').read_text())
  page = (ROOT / 'docs/scaling.md').read_text()
  assert scale.table(report['rows']) in page
  for row in report['rows']:
    assert row['mesh'] in [list(m) for m in scale.MESHES[row['network']]]
