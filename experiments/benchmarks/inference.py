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
r"""How fast, how large: a sparse network in several engines on a CPU.

Train some networks, then measure them on cores where nothing else runs:

    for density in 0.1 0.05 0.02 0.01; do
      python -m experiments.main \
          --config=experiments/configs/mnist_lenet300_scl.py \
          --config.target_density=$density --config.dense_reference=False \
          --workdir=workdirs/inference/lenet300_$density
      python -m experiments.main \
          --config=experiments/configs/mnist_lenet5_scl.py \
          --config.target_density=$density --config.dense_reference=False \
          --config.epochs=2 --workdir=workdirs/inference/lenet5_$density
      python -m experiments.main \
          --config=experiments/configs/cifar10_resnet8_scl.py \
          --config.target_density=$density --config.validation_size=0 \
          --config.scl.mask_optimizer=0.05 --config.epochs=4 \
          --workdir=workdirs/inference/resnet8_$density
    done
    OPENBLAS_NUM_THREADS=1 taskset -c 0 \
        python -m experiments.benchmarks.inference \
        --workdir=workdirs/inference/lenet300_0.1 ... \
        --random=vgg16:0.05 ... \
        --output=experiments/results/inference_cpu.json

`--random` takes a model of `experiments.models` and a density: its weights,
BatchNorm's statistics and masks are random, and the table says so. Random masks
leave hardly a feature dead, so that there is little to compact. `dense_1024`
and `conv_128`, a 3x3 convolution on 16x16 maps, are single layers with as many
inputs as features:

    python -m experiments.benchmarks.inference --batch_size=32 --nomemory \
        --random=conv_128:0.1 --random=conv_128:0.05 --random=conv_128:0.02

The engines (`experiments.engines`) take turns in one process. Reported are
medians of milliseconds and of the ratio to dense JAX in the same round, with
quartiles; the table is written beside the JSON, as `.md`. Peak memory is of a
process that runs this engine alone on the largest batch, libraries and weights
included, while it runs; what compiling took is not counted.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import multiprocessing
import os
import tempfile
from typing import Any, NamedTuple

from absl import flags
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import artifacts
from experiments import command_line
from experiments import engines
from experiments import finished_run
from experiments import models
from experiments.benchmarks import preflight
from experiments.models import layers
import scl_jax

_WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'Finished runs of experiments.main.'
)
_RANDOM = flags.DEFINE_multi_string(
  'random', [], 'Models with random masks, such as vgg16:0.05.'
)
_BATCH_SIZES = flags.DEFINE_multi_integer(
  'batch_size', [1, 32, 256], 'Sizes of batches.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 30, 'Turns of each engine.', 1)
_MEMORY = flags.DEFINE_bool('memory', True, 'Whether to measure peak memory.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file to write.')


# Single layers, and the shape of what they take.
_LAYERS = {
  'dense_1024': (nn.Dense(1024), (1024,)),
  'conv_128': (nn.Conv(128, (3, 3)), (16, 16, 128)),
}


class Network(NamedTuple):
  """What is measured.

  Attributes:
    name: For the table.
    fn: `fn(params, images)`.
    params: Its effective params.
    masks: Their masks.
    images: [examples, ...].
  """

  name: str
  fn: Callable[[Any, Any], Any]
  params: Any
  masks: Any
  images: np.ndarray


def trained(workdir: str, count: int) -> Network:
  """A network with learned masks, and test images.

  Args:
    workdir: Of a finished run.
    count: How many images.

  Returns:
    The network.
  """
  run = finished_run.load(workdir, num_images=count)
  name = f'{run.config.model}, {run.config.dataset}'
  images = np.asarray(run.images)
  return Network(name, run.network, run.params, run.masks, images)


def random(description: str, count: int) -> Network:
  """A network or layer with random masks, and random inputs.

  Args:
    description: Such as `'vgg16:0.05'`, for images of 32x32 pixels.
    count: How many images.

  Returns:
    The network.

  Raises:
    ValueError: If the description is none.
  """
  name, _, density = description.partition(':')
  try:
    share = float(density)
  except ValueError:
    share = np.nan
  if not 0 < share <= 1:
    raise ValueError(
      f'--random must be a model and a density, such as vgg16:0.05; got '
      f'{description!r}.'
    )
  if name in _LAYERS:
    model, shape = _LAYERS[name]
  else:
    model, shape = models.create_model(name, 10), (32, 32, 3)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(count, *shape)).astype(np.float32)
  variables = model.init(jax.random.key(0), images[:1])
  params = variables.pop('params')
  masks = jax.tree.map(
    lambda p, is_prunable: (
      jnp.asarray(rng.random(p.shape) < share, p.dtype) if is_prunable else None
    ),
    params,
    scl_jax.prunable(params),
  )
  # Statistics as they would be: those of the masked network on these images.
  params = scl_jax.apply_masks(params, masks)
  state = _statistics(model, params, variables, images[:32])

  def fn(params, images):
    return model.apply({'params': params, **state}, images)

  return Network(f'{name}, random masks', fn, params, masks, images)


def _statistics(
  model: nn.Module, params: Any, variables: Any, images: np.ndarray
) -> Any:
  """BatchNorm's running statistics, as these images make them."""
  if not variables:
    return {}
  _, moved = model.apply(
    {'params': params, **variables},
    images,
    train=True,
    mutable=list(variables),
  )
  momentum = layers.BATCH_NORM_MOMENTUM
  return jax.tree.map(
    lambda new, old: (new - momentum * old) / (1 - momentum),
    dict(moved),
    variables,
  )


def load(source: tuple[str, str], count: int) -> Network:
  """`trained` or `random`, by what `source` says first."""
  kind, description = source
  return {'workdir': trained, 'random': random}[kind](description, count)


def sizes_on_disk(network: Network) -> dict[str, int]:
  """Bytes of the network in several formats.

  Args:
    network: The network.

  Returns:
    Bytes as `dense` safetensors, `sparse` safetensors and `compact` ones.
  """
  _, _, params, masks, images = network
  small = scl_jax.compact(network.fn, params, masks, images[:8], verify=False)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'network')

    def size(write, *arguments):
      write(path, *arguments)
      return os.path.getsize(path)

    return {
      'dense': size(scl_jax.save_dense, params),
      'sparse': size(scl_jax.save, params, masks, {}),
      'compact': size(scl_jax.save_dense, small.params),
    }


def peak_memory(
  source: tuple[str, str], name: str, batch_size: int
) -> float | None:
  """MiB of a process of its own, at most, while an engine runs in it.

  Args:
    source: As `load` takes it.
    name: The engine.
    batch_size: The size of the batches.

  Returns:
    The memory; `None` without the engine, or elsewhere than on Linux.
  """
  if not os.path.exists('/proc/self/clear_refs'):
    return None
  context = multiprocessing.get_context('spawn')
  with context.Pool(1) as pool:
    return pool.apply(_peak_here, (source, name, batch_size))


def _peak_here(
  source: tuple[str, str], name: str, batch_size: int
) -> float | None:
  network = load(source, batch_size)
  engine = engines.make(name, *network[1:], [batch_size])
  if engine is None:
    return None
  images = network.images
  del network
  jax.clear_caches()
  with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
    file.write('5')  # the peak starts anew, see proc(5)
  for _ in range(3):
    engine(images)
  with open('/proc/self/status', encoding='ascii') as file:
    (line,) = [line for line in file if line.startswith('VmHWM')]
  return int(line.split()[1]) / 1024


def measure(source: tuple[str, str]) -> list[dict[str, Any]]:
  """All engines on one network.

  Args:
    source: As `load` takes it.

  Returns:
    A row for each batch size, as `engines.table` takes them.
  """
  sizes = _BATCH_SIZES.value
  network = load(source, max(sizes))
  made = {
    name: engines.make(name, *network[1:], sizes) for name in engines.NAMES
  }
  found = {name: run for name, run in made.items() if run is not None}
  on_disk = sizes_on_disk(network)
  memory = {}
  if _MEMORY.value:
    memory = {name: peak_memory(source, name, max(sizes)) for name in found}
  return [
    {
      'network': network.name,
      'source': ':'.join(source),
      'density': float(scl_jax.density(network.masks)),
      'batch_size': size,
      'engines': engines.measure(found, network.images[:size], _ROUNDS.value),
      'bytes': on_disk,
      'peak_mebibytes': memory,
    }
    for size in sizes
  ]


def sizes_table(results: Sequence[Mapping[str, Any]]) -> str:
  """Sizes on disk and peak memory as Markdown, a line for each network."""
  first = {row['source']: row for row in reversed(results)}
  rows = list(reversed(first.values()))
  names = [
    n for n in engines.NAMES if any(r['peak_mebibytes'].get(n) for r in rows)
  ]
  heads = [
    'network',
    'density',
    'dense file, kB',
    'sparse file',
    'compact file',
  ]
  heads += [f'{name}, MiB' for name in names]
  lines = [f'| {" | ".join(heads)} |', f'|---|{"--:|" * (len(heads) - 1)}']
  for row in rows:
    cells = [f'{row["bytes"][kind] / 1e3:,.0f}' for kind in row['bytes']]
    for name in names:
      peak = row['peak_mebibytes'].get(name)
      cells.append('–' if peak is None else f'{peak:.0f}')
    lines.append(
      f'| {row["network"]} | {row["density"]:.1%} | {" | ".join(cells)} |'
    )
  return '\n'.join(lines)


def main() -> None:
  """Measures, prints tables and writes them with the JSON."""
  sources = [
    *(('workdir', workdir) for workdir in _WORKDIR.value),
    *(('random', description) for description in _RANDOM.value),
  ]
  if not sources:
    raise ValueError(
      'There is nothing to measure: give --workdir of a finished run, or '
      '--random, such as vgg16:0.05.'
    )
  preflight.check_output(_OUTPUT.value)
  report: dict[str, Any] = {
    'command': artifacts.command('experiments.benchmarks.inference'),
    **artifacts.measured_on(),
    'cores_used': len(os.sched_getaffinity(0)),
    'load_at_start': os.getloadavg()[0],
    'rounds': _ROUNDS.value,
    'results': [],
  }
  for source in tqdm.tqdm(sources, disable=None):
    rows = measure(source)
    report['results'] += rows
    print(f'\n{engines.table(rows)}', flush=True)
    if _OUTPUT.value:
      _write(_OUTPUT.value, report)
  print(f'\n{sizes_table(report["results"])}')


def _write(path: str, report: Mapping[str, Any]) -> None:
  """The JSON and the table, after each network."""
  results = report['results']
  text = f'{engines.table(results)}\n\n{sizes_table(results)}\n'
  artifacts.write_text(path, json.dumps(report, indent=1))
  artifacts.write_text(f'{os.path.splitext(path)[0]}.md', text)


if __name__ == '__main__':
  command_line.run(main, keep_programs=False)
