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
r"""The command line that takes a finished run away.

For example:

    python -m experiments.export --workdir=workdirs/digits --format=sparse

It writes into the workdir:

| format | file | what it is |
|---|---|---|
| `sparse` | `network.sparse.safetensors` | live values and coded masks |
| `dense` | `network.safetensors` | all arrays, by their paths |
| `csr` | `network.csr/<path>.npz` | pruned kernels for SciPy |
| `stablehlo` | `network.stablehlo` | a program for `jax.export` |
| `onnx` | `network.onnx` | a program for ONNX Runtime |

The programs map images [batch, height, width, channels] as the network takes
them to logits: in [0, 1], where the config has a `pixel_mean` normalised by it.

With `--bench` it measures as well how fast the network is on this CPU, in
several engines (`experiments.engines`), and writes `bench.json` and `bench.md`.
"""

from collections.abc import Mapping, Sequence
import json
import os
import types
from typing import Any

from absl import flags
import numpy as np

from experiments import artifacts
from experiments import command_line
from experiments import engines
from experiments import finished_run
import scl_jax

FORMATS: Mapping[str, str] = types.MappingProxyType(
  {
    'sparse': 'network.sparse.safetensors',
    'dense': 'network.safetensors',
    'csr': 'network.csr',
    'stablehlo': 'network.stablehlo',
    'onnx': 'network.onnx',
  }
)


def export(workdir: str, formats: Sequence[str]) -> dict[str, str]:
  """Writes the network of a finished run in other formats.

  Args:
    workdir: The folder in which `train_and_evaluate` left its results.
    formats: Some of `FORMATS`.

  Returns:
    For each format the path of its file, or of its folder for `'csr'`.

  Raises:
    FileNotFoundError: If there is no finished run.
    ValueError: If a format is unknown, or ONNX does not take the network.
  """
  unknown = set(formats) - set(FORMATS)
  if unknown:
    raise ValueError(
      f'formats must be of {", ".join(FORMATS)}; got {sorted(unknown)}.'
    )
  run = finished_run.load(workdir, num_images=8)
  metadata = {'config': run.config.to_dict(), 'result': run.result}
  paths = {kind: os.path.join(workdir, FORMATS[kind]) for kind in formats}
  for kind, path in paths.items():
    if kind == 'sparse':
      scl_jax.save(path, run.params, run.masks, metadata)
    elif kind == 'dense':
      scl_jax.save_dense(path, run.params)
    elif kind == 'csr':
      scl_jax.save_csr(path, run.params, run.masks)
    elif kind == 'stablehlo':
      scl_jax.save_stablehlo(path, run.network, run.params, run.images)
    else:
      try:
        scl_jax.save_onnx(path, run.network, run.params, run.images)
      except RuntimeError as error:
        raise ValueError(f'--format=onnx: {error}') from error
  return paths


def bench(
  workdir: str,
  *,
  batch_sizes: Sequence[int] = (1, 32, 256),
  rounds: int = 30,
) -> list[dict[str, Any]]:
  """Times the network of a finished run in several engines.

  Args:
    workdir: The folder in which `train_and_evaluate` left its results.
    batch_sizes: For which to measure.
    rounds: How many turns each engine has.

  Returns:
    What is written into the workdir: a row for each batch size, as
    `engines.table` takes them.

  Raises:
    FileNotFoundError: If there is no finished run.
    ImportError: Without numba.
  """
  run = finished_run.load(workdir, num_images=max(batch_sizes))
  images = np.asarray(run.images)
  network = run.network, run.params, run.masks, images
  made = {n: engines.make(n, *network, batch_sizes) for n in engines.NAMES}
  found = {name: engine for name, engine in made.items() if engine is not None}
  rows = [
    {
      'network': run.config.model,
      'density': float(scl_jax.density(run.masks)),
      'batch_size': size,
      'engines': engines.measure(found, images[:size], rounds),
    }
    for size in batch_sizes
  ]
  for name, text in {
    'bench.json': json.dumps(rows, indent=1),
    'bench.md': f'{engines.table(rows)}\n',
  }.items():
    artifacts.write_text(os.path.join(workdir, name), text)
  return rows


def main() -> None:
  """Writes the formats and prints their sizes, and latencies if asked for."""
  for path in export(flags.FLAGS.workdir, flags.FLAGS.format).values():
    print(f'{path}: {_size(path):,} bytes')
  if flags.FLAGS.bench:
    print(f'\n{engines.table(bench(flags.FLAGS.workdir))}')


def _size(path):
  if os.path.isfile(path):
    return os.path.getsize(path)
  return sum(os.path.getsize(entry.path) for entry in os.scandir(path))


if __name__ == '__main__':
  flags.DEFINE_string(
    'workdir', None, 'Of a finished run of experiments.main.', required=True
  )
  flags.DEFINE_multi_enum(
    'format',
    ['sparse'],
    list(FORMATS),
    'What to write; may be given several times.',
  )
  flags.DEFINE_bool(
    'bench', False, 'Also measure how fast the network is on this CPU.'
  )
  command_line.run(main)
