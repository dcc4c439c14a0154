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
r"""Makes a trained network small, and measures what that is worth.

Run it on the workdir of `experiments.main`:

    python -m experiments.compact --workdir=workdirs/demo

It prints the certificate and a table of latencies on this device, and writes
`compact/checkpoint` (the small params), `compact/certificate.txt` and
`compact/result.json` (with the removed indices) into the workdir.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import os
import statistics
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import artifacts
from experiments import checkpointing
from experiments import command_line
from experiments import finished_run
import scl_jax

_EXAMPLES = 32  # that outputs are compared on
_BATCH_SIZES = (1, 32, 256)
_ROUNDS = 30


def compact_run(
  workdir: str,
  *,
  drop_inputs: bool = False,
  batch_sizes: Sequence[int] = _BATCH_SIZES,
  rounds: int = _ROUNDS,
) -> tuple[scl_jax.CompactModel, dict[str, Any]]:
  """Compacts the network of a run and writes it beside the original.

  Args:
    workdir: The run's folder, with `config.json` and `checkpoint/`.
    drop_inputs: See `scl_jax.compact`.
    batch_sizes: For which to measure the latency.
    rounds: How often each network is timed.

  Returns:
    The small model, and what is in `compact/result.json`.

  Raises:
    FileNotFoundError: If there is no such run.
    OSError: If the folder cannot be written to.
  """
  run = finished_run.load(workdir, num_images=max(_EXAMPLES, *batch_sizes))
  artifacts.check_writable('--workdir', workdir)
  fn, params, masks, images = run.network, run.params, run.masks, run.images
  small = scl_jax.compact(
    fn, params, masks, images[:_EXAMPLES], drop_inputs=drop_inputs
  )
  networks = {
    'dense': (fn, without_zeros(params)),
    'zeros': (fn, params),
    'compact': (small.fn, small.params),
  }
  certificate = small.certificate
  result = {
    'params_before': certificate.params_before,
    'params_after': certificate.params_after,
    'macs_before': certificate.macs_before // _EXAMPLES,
    'macs_after': certificate.macs_after // _EXAMPLES,
    'difference64': certificate.difference64,
    'difference32': certificate.difference32,
    'density': float(scl_jax.density(masks)),
    'device': jax.devices()[0].device_kind,
    'latency': [
      {'batch_size': size, **latencies(networks, images[:size], rounds)}
      for size in batch_sizes
    ],
    'removed': dict(certificate.removed),
  }
  folder = os.path.join(workdir, 'compact')
  checkpointing.save(
    folder, {'params': small.params}, advice='then compact it again'
  )
  for name, text in {
    'certificate.txt': f'{certificate}\n',
    'result.json': json.dumps(result, indent=2),
  }.items():
    artifacts.write_text(os.path.join(folder, name), text)
  return small, result


def without_zeros(params: Any) -> Any:
  """The same shapes as a dense network has, should a device skip zeros."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda p: jnp.where(p == 0, rng.normal(size=p.shape) * 0.01, p), params
  )


def latencies(
  networks: Mapping[str, tuple[Callable[..., Any], Any]],
  images: jax.Array,
  rounds: int,
) -> dict[str, float]:
  """Milliseconds of one call of each network, and speed-ups over `'dense'`.

  The networks take turns, so that a busy machine slows all of them; a speed-up
  is the median over the rounds of the ratio within a round.

  Args:
    networks: Functions and params; one is called `'dense'`.
    images: One batch.
    rounds: How many rounds.

  Returns:
    `{name}_ms` and, but for the dense one, `{name}_speedup`.
  """
  compiled = {
    name: (jax.jit(fn).lower(params, images).compile(), params)
    for name, (fn, params) in networks.items()
  }
  times: dict[str, list[float]] = {name: [] for name in networks}
  for index in range(rounds + 2):
    for name, (fn, params) in compiled.items():
      start = time.perf_counter()
      for _ in range(5):
        jax.block_until_ready(fn(params, images))
      if index >= 2:  # the first rounds warm up
        times[name].append((time.perf_counter() - start) / 5)
  result = {}
  for name, values in times.items():
    result[f'{name}_ms'] = 1e3 * statistics.median(values)
    if name != 'dense':
      ratios = [a / b for a, b in zip(times['dense'], values, strict=True)]
      result[f'{name}_speedup'] = statistics.median(ratios)
  return result


def table(result: Mapping[str, Any]) -> str:
  """The latencies as Markdown, with what they mean in a sentence."""
  lines = [
    '| batch | dense, ms | zeros, ms | compact, ms | zeros | compact |',
    '|--:|--:|--:|--:|--:|--:|',
  ]
  for row in result['latency']:
    lines.append(
      f'| {row["batch_size"]} | {row["dense_ms"]:.3f} | {row["zeros_ms"]:.3f} '
      f'| {row["compact_ms"]:.3f} | ×{row["zeros_speedup"]:.2f} '
      f'| ×{row["compact_speedup"]:.2f} |'
    )
  zeros = [row['zeros_speedup'] for row in result['latency']]
  compact = [row['compact_speedup'] for row in result['latency']]
  theory = result['macs_before'] / max(1, result['macs_after'])
  lines += [
    '',
    f'On this device ({result["device"]}) zeros alone give '
    f'×{min(zeros):.2f} to ×{max(zeros):.2f}; compaction gives '
    f'×{min(compact):.2f} to ×{max(compact):.2f}, of ×{theory:.2f} by MACs. '
    f'A machine that skipped every zero would have '
    f'×{1 / max(result["density"], 1e-9):.1f} by connections.',
  ]
  return '\n'.join(lines)


def main() -> None:
  """Compacts, and prints the certificate and the table."""
  small, result = compact_run(
    flags.FLAGS.workdir, drop_inputs=flags.FLAGS.drop_inputs
  )
  print(f'{small.certificate}\n\n{table(result)}\n')
  print(f'The small model is in {os.path.join(flags.FLAGS.workdir, "compact")}')


if __name__ == '__main__':
  flags.DEFINE_string(
    'workdir', None, 'The workdir of a run of experiments.main.', required=True
  )
  flags.DEFINE_bool(
    'drop_inputs', False, 'Also remove the weights of inputs that nobody reads.'
  )
  command_line.run(main)
