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
import difflib
import itertools
import os
import runpy
import signal
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
import ml_collections
from ml_collections import config_flags

from experiments import artifacts
from experiments import config_checks
from experiments import rules
from experiments.configs import default

# What configs of some experiments have besides the defaults and, by the name of
# a method, further arguments of its rule.
_OF_SOME = ('alphas', 'compare', 'conv_alphas', 'nnrelief')

# What the user can mend.
_MENDABLE = (ValueError, OSError, ImportError)


def run(
  main: Callable[[], None],
  *,
  required: Sequence[str] = (),
  after_interrupt: str = '',
  keep_programs: bool = True,
) -> None:
  """Parses flags and runs a command.

  Args:
    main: The command. What the user can mend is said in a line, without a
      traceback; so is that Ctrl-C stopped it.
    required: Flags that must be given, besides those that are defined so.
    after_interrupt: How to go on then, a sentence.
    keep_programs: See `keep_compiled_programs`; not where compiling is timed.
  """

  def start(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'Unknown arguments: {list(argv[1:])}')
    # Orbax tells at length what it does, on the level INFO. (A default of the
    # flag would not do: absl takes a default for INFO.)
    if not flags.FLAGS['verbosity'].present:
      logging.set_verbosity(logging.WARNING)
    if keep_programs:
      keep_compiled_programs()
    try:
      main()
    except _MENDABLE as error:
      raise SystemExit(f'{type(error).__name__}: {error}') from error
    except KeyboardInterrupt:
      print(f'\nStopped by Ctrl-C. {after_interrupt}', file=sys.stderr)
      sys.stdout.flush()
      # At once, as Python would wait for threads that wait for others.
      os._exit(128 + signal.SIGINT)

  jax.config.config_with_absl()
  flags.mark_flags_as_required(required)
  app.run(start, flags_parser=_parse)


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

  def main() -> None:
    with artifacts.alone(workdir.value):
      print(experiment(config.value, workdir.value))

  run(
    main,
    required=('config',),
    after_interrupt='What is in results.json stays: the same command goes on.',
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


def _parse(argv: Sequence[str]) -> list[str]:
  """As absl does, but for the traceback of a bad `--config`."""
  path = ''
  for word, following in itertools.pairwise([*argv, '']):
    if word == '--config':
      path = following
    elif word.startswith('--config='):
      path = word.partition('=')[2]
  try:
    rest = app.parse_flags_with_usage([*argv])
    if 'config' in flags.FLAGS:
      config: Any = flags.FLAGS['config'].value
      config.keys()  # raises if none was loaded
      check_fields(config)
      given = config_flags.get_override_values(flags.FLAGS['config'])
      config_checks.prefer_given(config, given)
      if config.get('warm_start'):
        config.warm_start = os.path.expanduser(config.warm_start)
    if 'workdir' in flags.FLAGS:
      _settle_workdir(flags.FLAGS['workdir'])
  except ValueError as error:
    raise SystemExit(f'ValueError: {error}') from error
  except (AttributeError, KeyError) as error:
    raise SystemExit(_unknown_field(argv, path) or error) from error
  except OSError as error:
    raise SystemExit(
      f'--config={path} cannot be read: give the path of a config, such as '
      'experiments/configs/digits_mlp_scl.py.'
    ) from error
  except SyntaxError as error:
    raise SystemExit(f'The config is no Python: {error}') from error
  return rest


def check_fields(config: ml_collections.ConfigDict) -> None:
  """Raises if a config file sets what nothing reads, as if mistyped.

  Args:
    config: As its file made it.

  Raises:
    ValueError: If there is a field that no experiment knows.
  """
  known = {*default.get_config(), *rules.RULES, *_OF_SOME}
  for name in config:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      advice = f'did you mean {near[0]!r}?' if near else 'remove it.'
      raise ValueError(
        f'The config file sets the field {name!r}, which nothing reads; '
        f'{advice}'
      )


def _settle_workdir(flag: flags.Flag) -> None:
  """Shells leave the ~ of --workdir=~/run as it is."""
  if isinstance(flag.value, str):
    flag.value = os.path.expanduser(flag.value)
    if '://' in flag.value:
      raise ValueError(
        f'--workdir={flag.value} must be a folder of a file system; mount the '
        'bucket, or copy the workdir there at the end.'
      )


def _unknown_field(argv: Sequence[str], path: str) -> str | None:
  """What to say of the first field that the config at `path` does not have."""
  make = runpy.run_path(path).get('get_config')
  if not make:
    return f'--config={path} has no function get_config().'
  for argument in argv:
    flag = argument.partition('=')[0].lstrip('-')
    parent, *names = flag.split('.')
    if parent != 'config':
      continue
    node = make()
    for name in names:
      fields = [*node] if isinstance(node, ml_collections.ConfigDict) else []
      if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        advice = 'it takes none from the command line.'
        if near:
          advice = f'did you mean {near[0]!r}?'
        elif fields:
          advice = f'there are: {", ".join(sorted(fields))}.'
        return f'--{flag}: there is no field {name!r} in {parent}; {advice}'
      node, parent = node[name], f'{parent}.{name}'
  return None
