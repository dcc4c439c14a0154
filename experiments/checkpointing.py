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
"""Arrays on disk, through Orbax: of a run that goes on, and of a finished one.

`Checkpoints` keeps the newest states of training in `<workdir>/checkpoints`;
`save` writes the network that came out to `<workdir>/checkpoint`.
"""

from collections.abc import Iterator
import contextlib
import os
import textwrap
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from scl_jax import tree as tree_lib

_RESUME = '--resume then goes on'


class Progress(NamedTuple):
  """What a checkpoint holds beside the state.

  Attributes:
    history: The points so far.
    findings: What was found so far, see `train.Run`.
    seconds: The time so far.
  """

  history: list[dict[str, float]]
  findings: list[str]
  seconds: float


class Checkpoints:
  """The newest checkpoints of a run; a context manager.

  They are written in the background, and a checkpoint is there whole or not at
  all: what a killed process leaves behind is not seen as one.
  """

  def __init__(self, workdir: str | None, *, keep: int = 2):
    """Opens, or makes, the folder.

    Args:
      workdir: The run's folder; `None` to keep nothing.
      keep: How many checkpoints stay.

    Raises:
      ValueError: If `keep` is less than one.
    """
    if keep < 1:
      raise ValueError(f'config.keep_checkpoints must be >= 1, got {keep}.')
    self._manager = None
    if workdir is not None:
      self._manager = ocp.CheckpointManager(
        os.path.join(os.path.abspath(workdir), 'checkpoints'),
        options=ocp.CheckpointManagerOptions(max_to_keep=keep),
      )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    if self._manager is not None:
      with writing(str(self._manager.directory)):
        self._manager.close()  # waits until all is written

  def newest(self) -> int | None:
    """The step of the newest checkpoint; `None` if there is none."""
    return None if self._manager is None else self._manager.latest_step()

  def save(self, state: Any, progress: Progress) -> None:
    """Starts to write a checkpoint.

    Args:
      state: A tree of arrays with an attribute `step`.
      progress: What else there is of the run.

    Raises:
      OSError: If it, or the one before, cannot be written.
    """
    if self._manager is None:
      return
    args = ocp.args.Composite(
      # Copies: while they are written, the next step reuses the buffers and
      # the history grows.
      state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
      progress=ocp.args.JsonSave(
        {**progress._asdict(), 'history': list(progress.history)}
      ),
    )
    # It waits for the one before, and says what went wrong with that.
    with writing(str(self._manager.directory)):
      self._manager.save(int(state.step), args=args)

  def restore(self, like: Any) -> tuple[Any, Progress]:
    """Reads the newest checkpoint.

    Args:
      like: A state of the same structure, such as the initial one.

    Returns:
      The state and the progress.

    Raises:
      FileNotFoundError: If there is no checkpoint.
      ValueError: If it cannot be read.
    """
    step = self.newest()
    if self._manager is None or step is None:
      raise FileNotFoundError('There is no checkpoint to go on from.')
    older = [number for number in self._manager.all_steps() if number < step]
    place = f'step {max(older)}' if older else 'the start'
    with reading(
      os.path.join(self._manager.directory, str(step)),
      f'remove it, and --resume goes on from {place}',
    ):
      found = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(
            jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
          ),
          progress=ocp.args.JsonRestore(),
        ),
      )
    # One that is older than the field has no findings.
    return found['state'], Progress(**{'findings': [], **found['progress']})


def has_checkpoint(workdir: str | None) -> bool:
  """Whether a run left a checkpoint that is whole, to go on from."""
  if workdir is None:
    return False
  path = os.path.join(workdir, 'checkpoints')
  return os.path.isdir(path) and bool(ocp.utils.checkpoint_steps(path))


def reading(
  path: str, advice: str = 'train again'
) -> contextlib.AbstractContextManager[None]:
  """Says in a sentence what Orbax says of files that are missing or damaged.

  Args:
    path: The checkpoint that is read meanwhile.
    advice: What to do then.

  Raises:
    ValueError: If anything is raised meanwhile.
  """
  return _in_a_sentence(
    ValueError,
    f'The checkpoint {path} cannot be read, as if files of it were missing or '
    f'damaged: {advice}.',
  )


def writing(
  path: str, advice: str = _RESUME
) -> contextlib.AbstractContextManager[None]:
  """Says in a sentence what Orbax says of what cannot be written.

  Args:
    path: What is written meanwhile.
    advice: What to do when that is mended.

  Raises:
    OSError: If anything is raised meanwhile.
  """
  return _in_a_sentence(
    OSError,
    f'{path} cannot be written: see that the disk has room and that you may '
    f'write there; {advice}.',
  )


@contextlib.contextmanager
def _in_a_sentence(kind: type[Exception], sentence: str) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # of many kinds, with pages of TensorStore's
    said = textwrap.shorten(str(error), 200)
    raise kind(f'{sentence} ({said})') from error


def save(workdir: str, arrays: Any, *, advice: str = _RESUME) -> str:
  """Writes a tree of arrays to `<workdir>/checkpoint`, whole or not at all.

  Args:
    workdir: The run's folder.
    arrays: A pytree; `None` holes are kept.
    advice: See `writing`.

  Returns:
    The checkpoint's path.

  Raises:
    OSError: If it cannot be written.
  """
  path = os.path.join(os.path.abspath(workdir), 'checkpoint')
  with writing(path, advice), ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, arrays, force=True)
  return path


def restore(workdir: str, like: Any) -> Any:
  """Reads what `save` wrote, or a part of it.

  Args:
    workdir: The run's folder.
    like: A dict of trees of arrays, or of `jax.ShapeDtypeStruct`; what it does
      not name is not read.

  Returns:
    The dict of trees of arrays.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    ValueError: If the arrays there do not fit or cannot be read.
  """
  path = _existing(workdir)
  target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
  _check_shapes(target, stored_leaves(workdir), path)
  with ocp.PyTreeCheckpointer() as checkpointer, reading(path):
    return checkpointer.restore(
      path,
      args=ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )


def stored_leaves(workdir: str) -> dict[str, Any]:
  """What `save` wrote, without reading the arrays.

  Args:
    workdir: The run's folder.

  Returns:
    From the path of each array to its metadata, with `shape` and `dtype`.

  Raises:
    FileNotFoundError: If there is no checkpoint.
    ValueError: If it cannot be read.
  """
  path = _existing(workdir)
  with ocp.PyTreeCheckpointer() as checkpointer, reading(path):
    tree = checkpointer.metadata(path).item_metadata.tree
  return {
    path: leaf
    for path, leaf in tree_lib.zip_leaves(tree)
    if hasattr(leaf, 'shape')
  }


def _existing(workdir: str) -> str:
  path = os.path.join(os.path.abspath(workdir), 'checkpoint')
  if not os.path.isdir(path):
    raise FileNotFoundError(f'There is no checkpoint in {path}.')
  return path


def _check_shapes(target: Any, stored: dict[str, Any], path: str) -> None:
  """Raises unless each leaf of `target` is stored; Orbax would skip it."""
  for name, leaf in tree_lib.zip_leaves(target):
    found = stored[name].shape if name in stored else 'none'
    if found != leaf.shape:
      raise ValueError(
        f'{path} must hold {name!r} with the shape {leaf.shape}; it holds '
        f'{found}. Is it of the same model?'
      )
