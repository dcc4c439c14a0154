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
r"""What an SCL step costs over the dense step with the same optimizer.

Run it with (the first three variables save page faults of large arrays on
Linux; the fourth lets XLA write several results in one loop on a CPU, see
`scl_jax.loop_fusion`):

    MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 \
        XLA_FLAGS=--xla_backend_extra_options=xla_cpu_use_multi_output_fusion \
        python -m experiments.benchmarks.step_time \
        --output=experiments/results/step_time_cpu.json

The variants take turns in one process, so that what else the machine does hits
all of them. Reported are medians of the ratio to the dense turn of the same
round, with quartiles.

The floor is the time that the update alone would need if every array that it
must read or write crossed memory once, at the bandwidth that the dense update
reaches in this process as one loop: Adam reads g, p, mu, nu and writes p, mu,
nu (28 bytes a parameter); SCL reads g, w, m, mu, nu, p and writes w, m, mu, nu,
p (44 bytes), and in one step of eight reads g and w for the norm (1). The floor
of the whole step is that and what the dense step takes besides its update.
"""

from collections.abc import Callable
import functools
import json
import os
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments.benchmarks import preflight
from experiments.models import lenet
from experiments.models import resnet
import scl_jax
from scl_jax import loop_fusion

_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')
_ONLY = flags.DEFINE_multi_string('only', None, 'Networks to measure.')

_DENSE_BYTES, _SCL_BYTES = 28, 45


def networks() -> dict[str, tuple[Callable[[], Any], Any, int, int]]:
  """(function that gives params and loss, batch shape, steps, turns)."""
  return {
    'LeNet-300-100, batch 128': (_lenet300, (128, 28, 28, 1), 100, 20),
    'ResNet-20, batch 128': (_resnet20, (128, 32, 32, 3), 2, 10),
    'MLP 4x(4096x4096), batch 32': (_mlp, (32, 4096), 4, 6),
  }


def variants() -> dict[str, optax.GradientTransformation]:
  """The optimizers to compare."""
  adam = optax.adam(1e-3)
  every_step = scl_jax.normalize_by_feature_norm(0.99)
  return {
    'dense': adam,
    'scl': scl_jax.sparsify(adam, scl_jax.scl(penalty=5e-3)),
    'scl, norm every step': scl_jax.sparsify(
      adam, scl_jax.scl(penalty=5e-3, normalizer=every_step)
    ),
    'scl, no norm': scl_jax.sparsify(
      adam, scl_jax.scl(penalty=5e-3, normalizer=None)
    ),
    'scl, target density': scl_jax.sparsify(
      adam, scl_jax.scl(target_density=0.01, freeze_step=10**9)
    ),
    'scl, masks in bfloat16': scl_jax.sparsify(
      adam, scl_jax.scl(penalty=5e-3, mask_dtype=jnp.bfloat16)
    ),
    'scl, frozen': scl_jax.sparsify(
      adam, scl_jax.scl(penalty=5e-3, freeze_step=1)
    ),
  }


def measure(
  make: Callable[[], Any], shape: Any, steps: int, rounds: int
) -> dict[str, Any]:
  """Times all variants on one network, taking turns."""
  params, loss_fn = make()
  inputs = jax.random.uniform(jax.random.key(1), shape)
  # The scan of a convolution is 80 times slower on a CPU.
  unroll = steps if len(shape) == 4 and shape[-1] == 3 else 1
  runs, carries, state_bytes = {}, {}, {}
  count = sum(p.size for p in jax.tree.leaves(params))
  grads = jax.grad(loss_fn)(params, inputs)
  for name, tx in variants().items():
    carries[name] = jax.tree.map(jnp.copy, params), tx.init(params)
    state_bytes[name] = (
      sum(leaf.nbytes for leaf in jax.tree.leaves(carries[name][1])) / count
    )
    runs[name, 'step'] = _make_run(
      tx, lambda params, _: jax.grad(loss_fn)(params, inputs), steps, unroll
    )
    if name in ('dense', 'scl'):
      runs[name, 'update'] = _make_run(tx, _given, steps, unroll)
    if name == 'dense':
      update = loop_fusion.separately(tx.update)
      one_loop = tx._replace(update=update)
      runs[name, 'one loop'] = _make_run(one_loop, _given, steps, unroll)

  seconds = {key: [] for key in runs}
  for index in tqdm.trange(rounds + 1, disable=None):
    for key, run in runs.items():
      start = time.perf_counter()
      carries[key[0]] = jax.block_until_ready(run(carries[key[0]], grads))
      if index:  # the first one compiles
        seconds[key].append((time.perf_counter() - start) / steps)

  table = {}
  dense = np.array(seconds['dense', 'step'])
  for name in variants():
    ratios = np.percentile(
      np.array(seconds[name, 'step']) / dense, (25, 50, 75)
    )
    table[name] = {
      'milliseconds': 1e3 * float(np.median(seconds[name, 'step'])),
      'ratio': float(ratios[1]),
      'ratio_quartiles': [float(ratios[0]), float(ratios[2])],
      'state_bytes_per_parameter': state_bytes[name],
    }
  alone = {
    key: 1e3 * float(np.median(values))
    for key, values in seconds.items()
    if key[1] != 'step'
  }
  update, one_loop = alone['dense', 'update'], alone['dense', 'one loop']
  floor = min(update, one_loop) * _SCL_BYTES / _DENSE_BYTES
  table['dense']['update_milliseconds'] = update
  table['dense']['update_as_one_loop_milliseconds'] = one_loop
  table['scl']['update_milliseconds'] = alone['scl', 'update']
  table['scl']['update_floor_milliseconds'] = floor
  table['scl']['update_over_floor'] = alone['scl', 'update'] / floor
  table['scl']['step_over_floor'] = table['scl']['milliseconds'] / (
    table['dense']['milliseconds'] - update + floor
  )
  return table


def _given(params, grads):
  """Gradients that are there, for an update alone.

  Tied to the params, or XLA would compute once for all steps what follows from
  gradients that never change.
  """
  return jax.lax.optimization_barrier((params, grads))[1]


def _make_run(tx, gradients, steps, unroll):
  """Several steps as one program, as an epoch is."""

  @functools.partial(jax.jit, donate_argnums=0)
  def run(carry, grads):
    def step(carry, _):
      params, state = carry
      updates, state = tx.update(gradients(params, grads), state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, None, steps, unroll=unroll)[0]

  return run


def _lenet300():
  model = lenet.LeNet300()
  params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
  labels = jax.random.randint(jax.random.key(2), (128,), 0, 10)

  def loss_fn(params, images):
    return _cross_entropy(model.apply(params, images), labels)

  return params, loss_fn


def _resnet20():
  model = resnet.ResNet(20)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  labels = jax.random.randint(jax.random.key(2), (128,), 0, 10)

  def loss_fn(params, images):
    logits, _ = model.apply(
      {**variables, 'params': params},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return _cross_entropy(logits, labels)

  return variables['params'], loss_fn


def _mlp():
  keys = jax.random.split(jax.random.key(0), 4)
  params = [
    {'kernel': jax.random.normal(key, (4096, 4096)) / 64} for key in keys
  ]

  def loss_fn(params, x):
    for layer in params:
      x = jax.nn.relu(x @ layer['kernel'])
    return jnp.mean(x**2)

  return params, loss_fn


def _cross_entropy(logits: Any, labels: jax.Array) -> jax.Array:
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main() -> None:
  """Measures, prints a table and writes JSON."""
  preflight.check_output(_OUTPUT.value)
  chosen = preflight.selected(networks(), _ONLY.value)
  report = {
    'command': artifacts.command('experiments.benchmarks.step_time'),
    'environment': {
      name: os.environ.get(name, '')
      for name in (
        'MALLOC_ARENA_MAX',
        'MALLOC_MMAP_MAX_',
        'MALLOC_TRIM_THRESHOLD_',
        'XLA_FLAGS',
      )
    },
    **artifacts.measured_on(),
    'networks': {},
  }
  for name in chosen:
    table = measure(*networks()[name])
    report['networks'][name] = table
    print(f'\n{name}')
    for variant, row in table.items():
      low, high = row['ratio_quartiles']
      print(
        f'  {variant:22} {row["milliseconds"]:9.3f} ms  x {row["ratio"]:.3f}'
        f' ({low:.3f} to {high:.3f}), state'
        f' {row["state_bytes_per_parameter"]:.1f} B/parameter'
      )
    print(
      f'  update alone: dense {table["dense"]["update_milliseconds"]:.3f} ms,'
      f' scl {table["scl"]["update_milliseconds"]:.3f} ms,'
      f' {table["scl"]["update_over_floor"]:.2f} x its floor,'
      f' whole step {table["scl"]["step_over_floor"]:.2f} x its floor'
    )
  if _OUTPUT.value:
    artifacts.write_text(_OUTPUT.value, json.dumps(report, indent=2))


if __name__ == '__main__':
  command_line.run(main, keep_programs=False)
