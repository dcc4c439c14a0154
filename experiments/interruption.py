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
"""SIGTERM, as a request to stop at the next point."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import threading


class Interrupted(Exception):
  """The run was asked to stop, and did after saving a checkpoint.

  Attributes:
    step: The step of the checkpoint.
    num_steps: The length of the run.
  """

  def __init__(self, step: int, num_steps: int):
    super().__init__(
      f'Stopped by SIGTERM at step {step} of {num_steps}, with a checkpoint; '
      'go on with --resume.'
    )
    self.step = step
    self.num_steps = num_steps


@contextlib.contextmanager
def notice(*, active: bool) -> Iterator[Callable[[], bool]]:
  """While it lasts, SIGTERM is noted and does nothing else.

  Args:
    active: If not, or outside of the main thread, where Python handles no
      signals, SIGTERM ends the process as ever.

  Yields:
    A function that says whether SIGTERM came.
  """
  requested = threading.Event()
  if not active or threading.current_thread() is not threading.main_thread():
    yield requested.is_set
    return
  before = signal.signal(signal.SIGTERM, lambda *_: requested.set())
  try:
    yield requested.is_set
  finally:
    signal.signal(signal.SIGTERM, before)
