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
"""SIGTERM and Ctrl-C, as requests to stop at the next point."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import sys
import threading


class Interrupted(Exception):
  """The run was asked to stop, and did after saving a checkpoint.

  Attributes:
    step: The step of the checkpoint.
    num_steps: The length of the run.
    exit_code: What shells expect of a process that the signal ended.
  """

  def __init__(self, step: int, num_steps: int, signum: int):
    name = 'Ctrl-C' if signum == signal.SIGINT else 'SIGTERM'
    super().__init__(
      f'Stopped by {name} at step {step} of {num_steps}, with a checkpoint; '
      'go on with --resume.'
    )
    self.step = step
    self.num_steps = num_steps
    self.exit_code = 128 + signum


@contextlib.contextmanager
def notice(*, active: bool) -> Iterator[Callable[[], int]]:
  """While it lasts, SIGTERM and the first Ctrl-C are only noted.

  An exception in the midst of a checkpoint could be lost in a thread of it. The
  second Ctrl-C acts as ever.

  Args:
    active: If not, or outside of the main thread, where Python handles no
      signals, signals end the process as ever.

  Yields:
    A function that returns the signal that came, or 0.
  """
  came = 0
  if not active or threading.current_thread() is not threading.main_thread():
    yield lambda: came
    return

  def note(signum, _):
    nonlocal came
    came = signum
    if signum == signal.SIGINT:
      signal.signal(signal.SIGINT, before[signal.SIGINT])
      with contextlib.suppress(RuntimeError):  # amid another line
        print(
          '\nCtrl-C: stops at the next point, with a checkpoint; once more '
          'stops at once.',
          file=sys.stderr,
        )

  # A shell has its reasons where it starts a process that ignores Ctrl-C.
  before = {
    signum: signal.signal(signum, note)
    for signum in (signal.SIGTERM, signal.SIGINT)
    if signum == signal.SIGTERM or signal.getsignal(signum) != signal.SIG_IGN
  }
  try:
    yield lambda: came
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
