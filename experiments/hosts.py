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
"""Several processes as one training job: one for each host, or for each GPU.

All of them run the same program with the same config, and each sees an array
of the job through its own devices. So whatever touches such an array is done by
all of them, and what touches the outside (files, the terminal) by the first.
Between them is JAX's own runtime, see `jax.distributed`.
"""

import threading
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

PyTree = Any

_GRACE = 60  # seconds by which JAX, which aborts without a word, waits longer


def join(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  timeout: int = 300,
) -> None:
  """Makes this process one of a job; before anything else is done with JAX.

  Args:
    coordinator: Host and port at which the first process can be reached.
    num_processes: The number of processes.
    process_id: Which of them this is, from 0. All three may be left out where
      JAX finds them by itself: SLURM, Open MPI, Kubernetes and TPU.
    timeout: Seconds without the others after which the job is given up, here
      and later, while it runs.

  Raises:
    ValueError: If the arguments do not fit, or none are given and JAX does not
      find them.
    TimeoutError: If the others could not be reached.
  """
  given = (coordinator, num_processes, process_id)
  if any(x is None for x in given) and any(x is not None for x in given):
    raise ValueError(
      'Give all of coordinator, num_processes and process_id, or none where '
      'JAX finds them; got '
      f'{coordinator=}, {num_processes=} and {process_id=}.'
    )
  if coordinator is not None and not coordinator.rpartition(':')[2].isdigit():
    raise ValueError(
      f"coordinator must be like 'host:1234', got {coordinator!r}."
    )
  if timeout < 1:
    raise ValueError(f'timeout must be >= 1 second, got {timeout}.')

  failures: list[Exception] = []

  def initialize() -> None:
    try:
      jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=timeout + _GRACE,
        heartbeat_timeout_seconds=timeout,
        shutdown_timeout_seconds=timeout,
      )
    except Exception as error:
      failures.append(error)

  # In a thread, so that this one can say what is wrong: JAX aborts the process.
  thread = threading.Thread(target=initialize, daemon=True)
  thread.start()
  thread.join(timeout)
  if thread.is_alive():
    raise TimeoutError(
      f'The processes of the job did not come together within {timeout} s '
      f'({_who(*given)}): are all of them running, with the same number of '
      'processes, and is the host and port of the first one open to the others?'
    )
  if failures:
    raise ValueError(
      f'This process cannot join others ({_who(*given)}): {failures[0]} '
      'Outside of SLURM, Open MPI, Kubernetes and TPU give coordinator, '
      'num_processes and process_id.'
    ) from failures[0]


def _who(coordinator: Any, num_processes: Any, process_id: Any) -> str:
  if coordinator is None:
    return 'coordinator as JAX finds it'
  return f'process {process_id} of {num_processes}, coordinator {coordinator}'


def is_first() -> bool:
  """Whether this process writes the files; true without others."""
  return jax.process_index() == 0


def wait(name: str) -> None:
  """Returns when all processes have come to the place of that name."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
  """Whether the flag is set in any process; the same answer in all."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def gather(tree: PyTree) -> PyTree:
  """Brings arrays of the job to every host, leaf by leaf.

  Args:
    tree: Arrays of the job.

  Returns:
    NumPy arrays; without other processes the tree itself.
  """
  if jax.process_count() == 1:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)
