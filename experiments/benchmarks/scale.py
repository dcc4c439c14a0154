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
r"""What SCL costs on many devices, from programs that are compiled and not run.

Run it with:

    python -m experiments.benchmarks.scale \
        --output=experiments/results/scale.json

For each network and mesh the training step is compiled for as many devices as
the mesh has, dense and with SCL, by XLA for CPUs: its partitioner is the one of
GPUs and TPUs, and needs neither the devices nor the arrays. Reported of each
device are

- the bytes that the training state takes there, by what they are for;
- the bytes of the results of collectives, per step. XLA for CPUs moves float32
  where the model has bfloat16, and makes an all-reduce and a slice of what is a
  reduce-scatter elsewhere. SCL recomputes its norms every eighth step and looks
  at its density every sixteenth: the greater number is that of a step that does
  both.

No activations are in it: what XLA needs for them differs between backends.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import math
import os
import re
import subprocess
import sys
from typing import Any, NamedTuple

from absl import flags
import jax
import jax.numpy as jnp
import optax

from experiments import command_line
from experiments import models
from experiments import sharding
from experiments import training_step
from experiments.benchmarks import collectives
from experiments.benchmarks import decoder
from experiments.benchmarks import preflight
from experiments.configs import imagenet_resnet50_scl
import scl_jax
from scl_jax import atomic
from scl_jax import tree as tree_lib

_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')
_ONLY = flags.DEFINE_multi_string('only', None, 'Networks to compile.')
# One mesh needs a process of its own: the number of devices cannot change.
_ROW = flags.DEFINE_string('row', None, 'For the command itself.')

_COMMAND = (
  'python -m experiments.benchmarks.scale '
  '--output=experiments/results/scale.json'
)
_LENGTH = 2048  # tokens of a sequence; one sequence a device of data and fsdp
_IMAGES = 32  # a device
_TIMEOUT = 1800  # seconds for one mesh

# Machine code is not what is asked for.
_QUICK: Any = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}

DECODERS = {
  'transformer 1.1B': decoder.Decoder(2048, 22, 32, 4, 5632, 32_000),
  'transformer 6.7B': decoder.Decoder(4096, 32, 32, 32, 11_008, 32_000),
  'transformer 69B': decoder.Decoder(8192, 80, 64, 8, 28_672, 32_000),
}
# (data, fsdp, tensor)
MESHES: dict[str, list[tuple[int, int, int]]] = {
  'ResNet-50': [(8, 1, 1), (512, 1, 1)],
  'transformer 1.1B': [(1, 8, 1), (8, 8, 1), (64, 8, 1)],
  'transformer 6.7B': [(1, 8, 1), (1, 64, 1), (8, 32, 2)],
  'transformer 69B': [(1, 8, 1), (1, 16, 4), (1, 64, 8)],
}
# Lean: mask variables in bfloat16, and effective parameters that each step
# computes and does not store.
METHODS = ('dense', 'scl', 'lean')
# Where in a training state the bytes are: the first pattern that a path has.
_PARTS = {
  'params': r'^params/',
  'weights': r'/weights/',
  'mask_params': r'/mask_params/',
  'moments': r'/(mu|nu|trace)/',
  'other': r'',
}


class Job(NamedTuple):
  """What is compiled.

  Attributes:
    step: `(state, *batch) -> (state, loss)`, with `state.params`.
    make_state: Makes the state, from nothing.
    batch: What else the step takes, `jax.ShapeDtypeStruct`.
    param_axes: See `sharding.param_shardings`.
    rule: Of a sparse network.
  """

  step: Callable[..., Any]
  make_state: Callable[[], Any]
  batch: Sequence[jax.ShapeDtypeStruct]
  param_axes: Sequence[tuple[str, Sequence[str | None]]]
  rule: scl_jax.MaskRule | None = None


def decoder_job(
  model: decoder.Decoder, *, method: str, sequences: int, length: int
) -> Job:
  """Adam on a transformer, whose layers are prunable."""
  rule = _rule(
    method, prunable=decoder.PRUNABLE, feature_axes=decoder.FEATURE_AXES
  )
  tx = _wrap(optax.adam(1e-3), rule)

  def make_state():
    params = model.init(jax.random.key(0))
    step = jnp.zeros((), jnp.int32)
    return training_step.TrainState(step, params, {}, tx.init(params))

  def step(state, tokens):
    loss, grads = jax.value_and_grad(model.loss)(state.params, tokens)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = training_step.TrainState(state.step + 1, params, {}, opt_state)
    return state, loss

  tokens = jax.ShapeDtypeStruct((sequences, length + 1), jnp.int32)
  return Job(step, make_state, [tokens], decoder.PARAM_AXES, rule)


def resnet50_job(mesh: jax.sharding.Mesh, *, method: str, images: int) -> Job:
  """The step that `imagenet_resnet50_scl` trains with, but for a given λ."""
  config = imagenet_resnet50_scl.get_config()
  config.batch_size, config.accumulation_steps = images, 1
  model = models.create_model(config.model, 1000, config.dtype)
  rule = _rule(method)
  tx = _wrap(optax.sgd(0.4, momentum=0.9, nesterov=True), rule)
  size = config.image_size
  step = training_step.make_step(
    config,
    model,
    tx,
    (tuple(config.pixel_mean), tuple(config.pixel_std)),
    lambda _, batch: batch,
    mesh,
  )

  def make_state():
    images = jnp.zeros((1, size, size, 3))
    variables = dict(model.init(jax.random.key(0), images))
    params = variables.pop('params')
    count = jnp.zeros((), jnp.int32)
    return training_step.TrainState(count, params, variables, tx.init(params))

  batch = [
    jax.ShapeDtypeStruct((images, size, size, 3), jnp.uint8),
    jax.ShapeDtypeStruct((images,), jnp.int32),
  ]
  return Job(
    lambda state, *batch: step(state, (), batch),
    make_state,
    batch,
    config.param_axes,
    rule,
  )


def _wrap(
  tx: optax.GradientTransformation, rule: scl_jax.MaskRule | None
) -> optax.GradientTransformation:
  return tx if rule is None else scl_jax.sparsify(tx, rule)


def _rule(method: str, **arguments: Any) -> scl_jax.MaskRule | None:
  if method == 'dense':
    return None
  dtype = jnp.bfloat16 if method == 'lean' else jnp.float32
  return scl_jax.scl(penalty=5e-3, mask_dtype=dtype, **arguments)


def without_params(job: Job) -> Job:
  """The same step; its state holds no params, which are computed from it."""
  rule = job.rule
  if rule is None:
    raise ValueError('job must be of a sparse network: it has no masks.')

  def make_state():
    return job.make_state()._replace(params=None)

  def step(state, *batch):
    params = scl_jax.get_params(state.opt_state, rule)
    state, loss = job.step(state._replace(params=params), *batch)
    return state._replace(params=None), loss

  return job._replace(step=step, make_state=make_state)


def compile_job(job: Job, mesh: jax.sharding.Mesh) -> dict[str, Any]:
  """Compiles a step for a mesh, without any array.

  Args:
    job: The step.
    mesh: The mesh.

  Returns:
    Bytes of one device: `state` by part, `state_total`, and collectives of a
    step, `collectives` and `collectives_most`.
  """
  with sharding.use(mesh):
    state = jax.eval_shape(job.make_state)
    params = state.params or scl_jax.get_sparsify_state(state.opt_state).weights
    where = sharding.state_shardings(
      state,
      params,
      sharding.param_shardings(params, job.param_axes, mesh),
      mesh,
    )
    place = lambda leaf, to: leaf.update(sharding=to)
    state = jax.tree.map(place, state, where)
    examples = sharding.examples_sharding(mesh)
    batch = [place(leaf, examples) for leaf in job.batch]
    step = jax.jit(job.step, donate_argnums=0, out_shardings=(where, None))
    program: Any = step.lower(state, *batch).compile(compiler_options=_QUICK)
  traffic = collectives.traffic(program.as_text())
  parts = state_bytes(state)
  return {
    'state': parts,
    'state_total': sum(parts.values()),
    'collectives': traffic.least,
    'collectives_most': traffic.most,
  }


def state_bytes(state: Any) -> dict[str, int]:
  """What a training state takes on one device, by part.

  Args:
    state: Arrays, or `jax.ShapeDtypeStruct` with shardings.

  Returns:
    Bytes of params, weights, mask_params, moments and other.
  """
  sizes = dict.fromkeys(_PARTS, 0)
  for path, leaf in tree_lib.zip_leaves(state):
    part = next(name for name, key in _PARTS.items() if re.search(key, path))
    shape = leaf.sharding.shard_shape(leaf.shape)
    sizes[part] += math.prod(shape) * leaf.dtype.itemsize
  return sizes


def row(name: str, shape: Sequence[int]) -> dict[str, Any]:
  """Compiles one network for one mesh, dense and with SCL."""
  mesh = jax.make_mesh(
    tuple(shape), sharding.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3
  )
  parts = sharding.examples_axis(mesh)
  found: dict[str, Any] = {'network': name, 'mesh': list(shape)}
  for method in METHODS:
    if name == 'ResNet-50':
      job = resnet50_job(mesh, method=method, images=_IMAGES * parts)
    else:
      job = decoder_job(
        DECODERS[name],
        method=method,
        sequences=parts,
        length=_LENGTH,
      )
    params = jax.eval_shape(job.make_state).params
    if method == 'lean':
      job = without_params(job)
    found[method] = compile_job(job, mesh)
  found['parameters'] = sum(p.size for p in jax.tree.leaves(params))
  return found


def row_in_process(name: str, shape: Sequence[int]) -> dict[str, Any]:
  """`row`, in a process that sees as many devices as the mesh has."""
  count = math.prod(shape)
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'experiments.benchmarks.scale',
      f'--row={json.dumps([name, list(shape)])}',
    ],
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={count}',
    },
    stdout=subprocess.PIPE,
    timeout=_TIMEOUT,
    check=True,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as Markdown, in GB (10^9 bytes) of one device."""
  lines = [
    '| network | devices | data × fsdp × tensor | params | weights '
    '| mask variables | moments | state, SCL | state, dense | ratio '
    '| state, lean | ratio, lean | collectives, dense | SCL adds, in MB '
    '| ratio at most |',
    '|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---:|',
  ]
  for found in rows:
    scl, dense, lean = (found[method] for method in ('scl', 'dense', 'lean'))
    cells = [
      found['network'],
      str(math.prod(found['mesh'])),
      ' × '.join(map(str, found['mesh'])),
      *(
        f'{scl["state"][part] / 1e9:.3g}'
        for part in ('params', 'weights', 'mask_params', 'moments')
      ),
      f'{scl["state_total"] / 1e9:.3g}',
      f'{dense["state_total"] / 1e9:.3g}',
      f'{scl["state_total"] / dense["state_total"]:.2f}',
      f'{lean["state_total"] / 1e9:.3g}',
      f'{lean["state_total"] / dense["state_total"]:.2f}',
      f'{dense["collectives"] / 1e9:.3g}',
      ' to '.join(
        f'{(scl[key] - dense["collectives"]) / 1e6:.3g}'
        for key in ('collectives', 'collectives_most')
      ),
      f'{scl["collectives_most"] / dense["collectives"]:.5f}',
    ]
    lines.append(f'| {" | ".join(cells)} |')
  return '\n'.join(lines) + '\n'


def main() -> None:
  """Compiles, prints the table and writes JSON."""
  if _ROW.value:
    print(json.dumps(row(*json.loads(_ROW.value))))
    return
  preflight.check_output(_OUTPUT.value)
  rows = []
  for name in preflight.selected(MESHES, _ONLY.value):
    for shape in MESHES[name]:
      rows.append(row_in_process(name, shape))
      print(f'{name} on {shape}: done', flush=True)
  print(table(rows))
  if _OUTPUT.value:
    report = {'command': _COMMAND, 'jax': jax.__version__, 'rows': rows}
    atomic.write(_OUTPUT.value, (json.dumps(report, indent=2) + '\n').encode())


if __name__ == '__main__':
  command_line.run(main, keep_programs=False)
