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
"""A network in several engines on a CPU, timed in turn.

| engine | what it is |
|---|---|
| `jax` | the dense network by XLA |
| `jax_compact` | `scl_jax.compact` of it by XLA |
| `onnx` | the dense network by ONNX Runtime |
| `onnx_compact` | the compacted one by ONNX Runtime |
| `scipy` | dense layers as CSR matrices of SciPy, where there are no others |
| `scl_jax` | `scl_jax.inference` |

All map NumPy arrays to NumPy arrays. An engine whose package is missing, or
that does not translate the network, is left out.
"""

from collections.abc import Callable, Mapping, Sequence
import os
import tempfile
import time
from typing import Any

from absl import logging
import jax
import numpy as np

import scl_jax
from scl_jax import inference
from scl_jax import tree as tree_lib

Engine = Callable[[np.ndarray], np.ndarray]

NAMES = ('jax', 'jax_compact', 'onnx', 'onnx_compact', 'scipy', 'scl_jax')

# A turn lasts about as long, so that the clock is fine enough.
_TURN_SECONDS = 2e-3


def make(
  name: str,
  fn: Callable[..., Any],
  params: Any,
  masks: Any,
  images: np.ndarray,
  batch_sizes: Sequence[int],
) -> Engine | None:
  """A network in an engine.

  Args:
    name: One of `NAMES`.
    fn: The network, `fn(params, images)`.
    params: Its effective params.
    masks: Their masks.
    images: Example images, [examples, ...].
    batch_sizes: The sizes of batches that it will see.

  Returns:
    The engine, or `None` if there is no such.
  """
  if name == 'scl_jax':
    try:
      network = inference.compile(
        fn, params, masks, images[:1], batch_sizes=batch_sizes
      )
    except inference.UnsupportedError as error:
      logging.warning('No sparse inference: %s', error)
      return None
    logging.info('%s', network)
    return network
  if name == 'scipy':
    return _scipy(fn, params, images)
  if name.endswith('_compact'):
    small = scl_jax.compact(fn, params, masks, images[:8], verify=False)
    fn, params = small.fn, small.params
  if name.startswith('onnx'):
    return _onnx(fn, params, images)
  jitted = jax.jit(fn)
  return lambda batch: np.asarray(jitted(params, batch))


def _onnx(
  fn: Callable[..., Any], params: Any, images: np.ndarray
) -> Engine | None:
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'network.onnx')
    try:
      import onnxruntime

      scl_jax.save_onnx(path, fn, params, images[:2])
    except (ImportError, RuntimeError) as error:
      logging.warning('No ONNX Runtime: %s', error)
      return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.log_severity_level = 3  # errors; it warns of every transposition
    session = onnxruntime.InferenceSession(
      path, options, providers=['CPUExecutionProvider']
    )
  (name,) = [node.name for node in session.get_inputs()]
  return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def _scipy(
  fn: Callable[..., Any], params: Any, images: np.ndarray
) -> Engine | None:
  """A perceptron of Linen's Dense layers with ReLUs; nothing else."""
  try:
    from scipy import sparse
  except ImportError:
    return None
  leaves = {path: np.asarray(p) for path, p in tree_lib.zip_leaves(params)}
  names = sorted({path.rpartition('/')[0] for path in leaves})
  if set(leaves) != {f'{n}/{x}' for n in names for x in ('kernel', 'bias')}:
    return None
  if any(leaves[f'{name}/kernel'].ndim != 2 for name in names):
    return None
  layers = [
    (sparse.csr_array(leaves[f'{n}/kernel'].T), leaves[f'{n}/bias'][:, None])
    for n in names
  ]

  def run(batch: np.ndarray) -> np.ndarray:
    x = batch.reshape(len(batch), -1).T
    for index, (kernel, bias) in enumerate(layers):
      x = kernel @ x + bias
      if index < len(layers) - 1:
        x = np.maximum(x, 0)
    return x.T

  wanted = np.asarray(fn(params, images[:2]))
  is_same = np.allclose(run(images[:2]), wanted, atol=1e-4, rtol=1e-4)
  return run if is_same else None


def measure(
  engines: Mapping[str, Engine], batch: np.ndarray, rounds: int
) -> dict[str, dict[str, Any]]:
  """Times engines on one batch.

  They take turns, so that what else the machine does hits all of them, and a
  ratio is taken within a round.

  Args:
    engines: By name; `'jax'` is among them.
    batch: The inputs.
    rounds: How many turns each has.

  Returns:
    For each engine `milliseconds` (median), `ratio` to `'jax'` (median), and
    `ratio_quartiles`.
  """
  repeats = {}
  for name, run in engines.items():
    run(batch)  # compiles
    run(batch)
    repeats[name] = max(1, round(_TURN_SECONDS / _time(run, batch, 1)))
  seconds: dict[str, list[float]] = {name: [] for name in engines}
  for _ in range(rounds):
    for name, run in engines.items():
      seconds[name].append(_time(run, batch, repeats[name]))
  result = {}
  dense = np.array(seconds['jax'])
  for name, found in seconds.items():
    low, median, high = np.percentile(np.array(found) / dense, (25, 50, 75))
    result[name] = {
      'milliseconds': 1e3 * float(np.median(found)),
      'ratio': float(median),
      'ratio_quartiles': [float(low), float(high)],
    }
  return result


def _time(run: Engine, batch: np.ndarray, repeats: int) -> float:
  start = time.perf_counter()
  for _ in range(repeats):
    run(batch)
  return (time.perf_counter() - start) / repeats


def table(results: Sequence[Mapping[str, Any]]) -> str:
  """Latencies as Markdown.

  Args:
    results: Rows with `network`, `density`, `batch_size` and, in `engines`,
      what `measure` returns.

  Returns:
    A table with a line for each row: milliseconds, and the ratio to dense JAX.
  """
  names = [n for n in NAMES if any(n in row['engines'] for row in results)]
  lines = [
    f'| network | density | batch | {" | ".join(names)} |',
    f'|---|--:|--:|{"--:|" * len(names)}',
  ]
  for row in results:
    cells = []
    for name in names:
      found = row['engines'].get(name)
      cells.append(
        '–'
        if found is None
        else f'{found["milliseconds"]:.3f} (×{found["ratio"]:.2f})'
      )
    lines.append(
      f'| {row["network"]} | {row["density"]:.1%} | {row["batch_size"]} '
      f'| {" | ".join(cells)} |'
    )
  return '\n'.join(lines)
