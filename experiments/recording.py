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
"""Metrics while a run goes on: a progress bar, JSON lines, TensorBoard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import math
import os
import time

import ml_collections
import tqdm


def line(point: Mapping[str, float]) -> str:
  """A point as it stands in `metrics.jsonl`: `null` is what is not finite."""
  values = {k: v if math.isfinite(v) else None for k, v in point.items()}
  return json.dumps(values, allow_nan=False) + '\n'


@contextlib.contextmanager
def recorder(
  workdir: str | None,
  config: ml_collections.ConfigDict,
  history: Sequence[Mapping[str, float]],
  num_steps: int,
) -> Iterator[Callable[[Mapping[str, float]], None]]:
  """Opens what metrics are written to.

  The bar shows what is left of the time, and images per second since the last
  point. `metrics.jsonl` has no times, so that equal runs write equal files.

  Args:
    workdir: Where `metrics.jsonl` and `tensorboard/` go; `None` for nowhere.
    config: `tensorboard` says whether to write event files.
    history: The points of the part of the run before it was interrupted.
    num_steps: The length of the run.

  Yields:
    A function that takes a point.
  """
  step = int(history[-1]['step']) if history else 0
  with contextlib.ExitStack() as stack:
    bar = stack.enter_context(
      tqdm.tqdm(total=num_steps, initial=step, unit='step', disable=None)
    )
    bar.set_description(f'{config.method}, seed {config.seed}')
    bar.set_postfix_str('compiling')  # until there is a point
    lines = events = None
    if workdir is not None:
      os.makedirs(workdir, exist_ok=True)
      lines = stack.enter_context(
        open(os.path.join(workdir, 'metrics.jsonl'), 'w', encoding='utf-8')
      )
      lines.writelines(map(line, history))
      lines.flush()
    if workdir is not None and config.tensorboard:
      import tensorboardX  # needed by few

      events = stack.enter_context(
        tensorboardX.SummaryWriter(
          os.path.join(workdir, 'tensorboard'), purge_step=step + 1
        )
      )
    last = step, time.perf_counter()

    def record(point: Mapping[str, float]) -> None:
      nonlocal last
      now = int(point['step']), time.perf_counter()
      speed = (now[0] - last[0]) * config.batch_size / (now[1] - last[1])
      last = now
      if lines is not None:
        lines.write(line(point))
        lines.flush()
      if events is not None:
        for name, value in {**point, 'images_per_second': speed}.items():
          if name != 'step':
            events.add_scalar(name, value, now[0])
      bar.set_postfix(
        {k: f'{v:.4g}' for k, v in point.items() if k != 'step'}
        | {'images/s': f'{speed:.4g}'}
      )
      bar.update(now[0] - bar.n)

    yield record
