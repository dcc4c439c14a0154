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
"""How every command of `experiments` starts."""

from collections.abc import Callable, Sequence
import os
import sys

from absl import app
from absl import flags
from absl import logging
import jax
import ml_collections
from ml_collections import config_flags

# What the user can mend.
_MENDABLE = (ValueError, TimeoutError, FileNotFoundError, ImportError)


def run(main: Callable[[], None], *, required: Sequence[str] = ()) -> None:
  """Parses flags and runs a command.

  Args:
    main: The command. What the user can mend is said in a line, without a
      traceback.
    required: Flags that must be given, besides those that are defined so.
  """

  def start(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'Unknown arguments: {list(argv[1:])}')
    # Orbax tells at length what it does, on the level INFO. (A default of the
    # flag would not do: absl takes a default for INFO.)
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    try:
      main()
    except _MENDABLE as error:
      raise SystemExit(f'{type(error).__name__}: {error}') from error

  jax.config.config_with_absl()
  flags.mark_flags_as_required(required)
  app.run(start)


def run_experiment(
  experiment: Callable[[ml_collections.ConfigDict, str], str],
) -> None:
  """Runs what `--config` describes in `--workdir`, and prints the outcome.

  The flags are defined here and not on import, so that one process can import
  several experiments.

  Args:
    experiment: From the config and the workdir to the text to print.
  """
  config = config_flags.DEFINE_config_file(
    'config', None, 'The experiment; change fields by --config.field=value.'
  )
  workdir = flags.DEFINE_string(
    'workdir', None, 'Where results are written.', required=True
  )
  for name in ('config', 'workdir'):  # --help shows those of the main module
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  run(
    lambda: print(experiment(config.value, workdir.value)),
    required=('config',),
  )


def keep_compiled_programs() -> None:
  """What XLA compiles is kept in the user's cache, for the next start.

  Unless `JAX_COMPILATION_CACHE_DIR` or the flag of that name says where;
  `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.
  """
  if jax.config.values['jax_compilation_cache_dir'] is None:
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    jax.config.update(
      'jax_compilation_cache_dir', os.path.join(cache, 'scl_jax', 'xla')
    )
