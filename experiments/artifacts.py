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
"""The files that a run leaves in its workdir.

| file | what is in it |
|---|---|
| `config.json` | the config |
| `metrics.jsonl` | one JSON object for each point; null: not finite |
| `result.json` | test accuracy, density, seconds; see `experiments.gating` |
| `run.json` | command, versions, devices, the shape of an image |
| `table.md` | the table of layers |
| `training.png` | loss, accuracy and density over steps |
| `layers.png` | density of each layer |
| `inputs.png` | connections that each input pixel keeps |
| `report.html` | all of this on one page; of `experiments.main` |
| `mask_history/` | the masks at each point, if the config asks for them |
| `checkpoint/` | effective parameters, masks, BatchNorm's statistics |
| `checkpoints/` | the newest states of training, to go on from |
| `tensorboard/` | event files, if the config asks for them |
| `dense/` | metrics and checkpoints of the dense reference |
| `compact/` | the small network; of `experiments.compact` |
| `network.*` | the network in other formats; of `experiments.export` |
| `bench.json`, `bench.md` | its latencies; of `experiments.export` |

A new run in the workdir of a finished one removes all of them, and nothing else
that is there.

The config, metrics and checkpoints are written while the run goes on, the rest
at its end; of several processes the first writes, and all of them the
checkpoints, so that the workdir must be a folder that they share. No times are
in `metrics.jsonl`, so that equal runs write equal files. `inputs.png` is of
first layers that see pixels alone. Of a run with gates all but the metrics and
`checkpoints/` is of the static network that it leaves.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
from typing import Any

from absl import logging
import jax
import ml_collections

from experiments import hosts
from experiments import plots
from experiments import recording
from experiments.configs import default
from scl_jax import atomic

# All of the above but the config. `result.json` is the first to go, as it says
# that the rest is whole.
_OF_A_RUN = (
  'result.json',
  'metrics.jsonl',
  'run.json',
  'table.md',
  'training.png',
  'layers.png',
  'inputs.png',
  'report.html',
  'mask_history',
  'checkpoint',
  'checkpoints',
  'tensorboard',
  'dense',
  'compact',
  'network.sparse.safetensors',
  'network.safetensors',
  'network.csr',
  'network.stablehlo',
  'network.onnx',
  'bench.json',
  'bench.md',
)

# What may change when a run goes on, as the results do not depend on it.
_WHERE_IT_RUNS = (
  'axis_types',
  'distributed',
  'mesh',
  'param_axes',
  'stream_workers',
)


@contextlib.contextmanager
def alone(workdir: str) -> Iterator[None]:
  """While it lasts, no other process may write results into the workdir.

  Two runs would remove each other's files, two sweeps overwrite each other's
  points. Nothing is left of it, however the process ends. Where folders cannot
  be locked, as in some that are shared, it does nothing.

  Args:
    workdir: It is made where it is missing. Of several processes of one job
      the first answers for all.

  Raises:
    ValueError: If another process is at it.
    OSError: If it is a file, or cannot be made.
  """
  with contextlib.ExitStack() as stack:
    if hosts.is_first():
      if not workdir or os.path.isfile(workdir):
        raise NotADirectoryError(
          f'--workdir must be a folder, or none yet; got {workdir!r}.'
        )
      os.makedirs(workdir, exist_ok=True)
      try:
        import fcntl  # not on Windows

        folder = os.open(workdir, os.O_RDONLY)
        stack.callback(os.close, folder)
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise ValueError(
          f'Another process is writing results into {workdir}: wait for its '
          'end, or give another --workdir.'
        ) from error
      except (ImportError, OSError):
        logging.info('%s cannot be locked', workdir)
    yield


def check(
  workdir: str, config: ml_collections.ConfigDict, *, resume: bool
) -> None:
  """Refuses a workdir that a run would harm; changes nothing.

  Args:
    workdir: It may be missing.
    config: The config of the run.
    resume: Whether an interrupted run goes on.

  Raises:
    ValueError: If there is an unfinished run and `resume` is not asked for, or
      it is and the run there has another config; if the run would remove the
      network that it starts from; or if there are the results of a sweep.
  """
  if os.path.exists(os.path.join(workdir, 'results.json')):
    raise ValueError(
      f'{workdir} holds the results of many runs, whose table and report this '
      'one would replace: give another --workdir.'
    )
  warm_start = config.get('warm_start')
  if warm_start and os.path.realpath(warm_start) == os.path.realpath(workdir):
    raise ValueError(
      f'config.warm_start={warm_start!r} is the workdir, whose network the run '
      'would replace: give another --workdir.'
    )
  if _has_checkpoints(workdir) and resume:
    _check_config(os.path.join(workdir, 'config.json'), config)
  elif _has_checkpoints(workdir) and not os.path.exists(
    os.path.join(workdir, 'result.json')
  ):
    raise ValueError(
      f'{workdir} holds a run that is not finished: go on with --resume, or '
      'give another --workdir.'
    )


def start(
  workdir: str, config: ml_collections.ConfigDict, *, resume: bool
) -> None:
  """Makes a workdir ready that `check` has not refused.

  Args:
    workdir: It is made where it is missing; what a run there has left is
      removed, unless it goes on.
    config: The config.
    resume: Whether an interrupted run goes on, if there is one.
  """
  hosts.wait('all have seen the workdir as it was')
  if hosts.is_first():
    os.makedirs(workdir, exist_ok=True)
    if not (resume and _has_checkpoints(workdir)):
      _remove_run(workdir)
    write_text(os.path.join(workdir, 'config.json'), config.to_json(indent=2))
  hosts.wait('the workdir is ready')


def _has_checkpoints(workdir: str) -> bool:
  folders = (
    os.path.join(workdir, name)
    for name in ('checkpoints', os.path.join('dense', 'checkpoints'))
  )
  return any(os.path.isdir(path) and os.listdir(path) for path in folders)


def _remove_run(workdir: str) -> None:
  for name in _OF_A_RUN:
    path = os.path.join(workdir, name)
    if os.path.isdir(path) and not os.path.islink(path):
      shutil.rmtree(path)
    elif os.path.lexists(path):
      os.remove(path)


def _check_config(path: str, config: ml_collections.ConfigDict) -> None:
  new = json.loads(config.to_json())
  different = differing_fields(with_newer_fields(read_json(path), new), new)
  different = [name for name in different if name not in _WHERE_IT_RUNS]
  if different:
    raise ValueError(
      f'{path} has another config, so its run cannot be resumed; these fields '
      f'differ: {different}.'
    )


def with_newer_fields(
  old: Mapping[str, Any], new: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """A config that lacks newer fields, with these.

  Args:
    old: A config as JSON has it.
    new: A config of today, likewise; `None` for the defaults.

  Returns:
    It, and at its fields those of `new` that it lacks: with their defaults,
    which is what they meant before.
  """
  defaults = json.loads(default.get_config().to_json())
  return _filled(dict(old), defaults, defaults if new is None else new)


def _filled(old: Any, defaults: Any, new: Any) -> Any:
  if not all(isinstance(node, Mapping) for node in (old, defaults, new)):
    return old
  return {
    **old,
    **{
      name: _filled(old[name], defaults.get(name), value)
      if name in old
      else defaults.get(name)
      for name, value in new.items()
    },
  }


def differing_fields(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[str]:
  """The names under which two configs have different values."""
  return sorted(n for n in {*old, *new} if old.get(n) != new.get(n))


def write(
  workdir: str,
  *,
  config: ml_collections.ConfigDict,
  result: Mapping[str, Any],
  history: Sequence[Mapping[str, float]],
  table: str,
  masks: Any,
  image_shape: tuple[int, ...],
) -> None:
  """Writes all of them.

  Args:
    workdir: An existing folder.
    config: The config.
    result: What goes into `result.json`.
    history: One mapping for each point of the run.
    table: The table of layers.
    masks: The final masks.
    image_shape: (height, width, channels) of an input.
  """
  for name, text in {
    'config.json': config.to_json(indent=2),
    'metrics.jsonl': ''.join(map(recording.line, history)),
    'table.md': table + '\n',
    'run.json': json.dumps(_origin(image_shape), indent=2),
  }.items():
    write_text(os.path.join(workdir, name), text)
  plots.training(os.path.join(workdir, 'training.png'), history)
  plots.layers(os.path.join(workdir, 'layers.png'), masks)
  plots.inputs(os.path.join(workdir, 'inputs.png'), masks, image_shape)
  # The last, as it says that the run is finished.
  write_text(os.path.join(workdir, 'result.json'), json.dumps(result, indent=2))


def _origin(image_shape: tuple[int, ...]) -> dict[str, Any]:
  """What somebody needs to know who wants to repeat the run."""
  arguments = [a for a in sys.orig_argv[1:] if not a.startswith('--resume')]
  return {
    'command': shlex.join(['python', *arguments]),
    'versions': {
      'python': platform.python_version(),
      **{
        name: importlib.metadata.version(name)
        for name in ('scl_jax', 'jax', 'jaxlib', 'numpy', 'optax', 'flax')
      },
    },
    'devices': [device.device_kind for device in jax.devices()],
    'machine': _machine(),
    'image_shape': list(image_shape),
  }


def command(module: str) -> str:
  """The command line that runs now.

  Args:
    module: The module that was started, by its full name.

  Returns:
    It and its flags, quoted for a shell.
  """
  return shlex.join(['python', '-m', module, *sys.argv[1:]])


def measured_on() -> dict[str, str]:
  """What a report says of the software and the hardware."""
  return {
    'jax': jax.__version__,
    'device': str(jax.devices()[0]),
    'machine': _machine(),
  }


def _machine() -> str:
  return f'{platform.machine()}, {os.cpu_count()} cores'


def check_writable(name: str, folder: str) -> None:
  """Refuses a folder before the work whose outcome shall be written there.

  Args:
    name: The flag that says where, such as `'--output'`.
    folder: The folder.

  Raises:
    OSError: If it is missing or cannot be written to.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(
      f'{name}: there is no folder {folder}: make it, or give another.'
    )
  if not os.access(folder, os.W_OK | os.X_OK):
    raise PermissionError(
      f'{name}: {folder} cannot be written to: see that you may write there, '
      'or give another.'
    )


def read_json(path: str, needs: Sequence[str] = ()) -> dict[str, Any]:
  """Reads a JSON file of a workdir.

  Args:
    path: The file.
    needs: Fields that it must have.

  Returns:
    Its content.

  Raises:
    OSError: If it cannot be read.
    ValueError: If it is damaged.
  """
  damaged = (
    'as if it were cut off or edited: mend it, or give another --workdir'
  )
  with open(path, encoding='utf-8') as file:
    try:
      content = json.load(file)
    except ValueError as error:
      raise ValueError(f'{path} is no JSON, {damaged}. ({error})') from error
  if not isinstance(content, dict):
    raise ValueError(f'{path} holds no JSON object, {damaged}.')
  missing = [name for name in needs if name not in content]
  if missing:
    raise ValueError(f'{path} lacks {", ".join(missing)}, {damaged}.')
  return content


def write_text(path: str, text: str) -> None:
  """Replaces a file at once, so that it is never half-written.

  Args:
    path: The file.
    text: What it shall hold.
  """
  atomic.write(path, text.encode())
