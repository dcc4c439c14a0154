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
"""A network for some shapes of inputs, each run as is fastest."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
import functools
import math
import os
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import differences
from scl_jax import tree as tree_lib
from scl_jax.graph import nodes
from scl_jax.inference import inputs as inputs_lib
from scl_jax.inference import program as program_lib
from scl_jax.inference import timing
from scl_jax.inference import trimming

PyTree = tree_lib.PyTree
Model = tuple[Callable[..., Any], PyTree]
_Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]

# Batches may be run in parts of so many examples: these stay in a cache.
PARTS = (32, 8)


class Plan(NamedTuple):
  """How inputs of some shapes are run, and why.

  Attributes:
    way: `'engine'`; or `'compact'` or `'dense'`, by XLA.
    part: How many examples the engine takes at once; `None` for all.
    threads: How many parts it runs at the same time.
    seconds: The time of each way, of the engine at its best.
    choices: How the engine runs each product; `way` is their own.
  """

  way: str
  part: int | None
  threads: int
  seconds: Mapping[str, float]
  choices: Sequence[program_lib.Choice]


class Planned(NamedTuple):
  """A plan that can be run.

  Attributes:
    plan: The plan.
    dtypes: Of the leaves of the inputs.
    run: From the leaves of the inputs to those of the outputs.
    in_tree: The structure of the inputs.
    out_tree: The structure of the outputs.
  """

  plan: Plan
  dtypes: list[np.dtype]
  run: _Run
  in_tree: Any
  out_tree: Any


class Network:
  """`network(*inputs)` is what `fn(params * masks, *inputs)` returns.

  Inputs and outputs are NumPy arrays. Calls from several threads take turns.
  """

  def __init__(self, planned: Mapping[Any, Planned]):
    """A network of plans.

    Args:
      planned: For the shapes of the inputs' leaves.
    """
    self._planned = dict(planned)
    self._lock = threading.Lock()

  def __call__(self, *inputs: Any) -> Any:
    """Runs the network.

    Args:
      *inputs: As `fn` takes them, of shapes that it was compiled for.

    Returns:
      What `fn` returns, of new NumPy arrays, which are the caller's.

    Raises:
      ValueError: If it was not compiled for such shapes, for inputs of these
        names, or for dtypes that hold their values.
    """
    leaves, treedef = jax.tree.flatten(inputs)
    shapes = tuple(np.shape(leaf) for leaf in leaves)
    planned = self._planned.get(shapes)
    if planned is None:
      raise ValueError(
        f'inputs must have shapes that the network was compiled for, '
        f'{" or ".join(map(str, self._planned))}; got {shapes}. Name all sizes '
        'of batches in batch_sizes.'
      )
    if treedef != planned.in_tree:
      inputs_lib.check_names(planned.in_tree, treedef)
    arrays = [np.asarray(leaf) for leaf in leaves]
    if [array.dtype for array in arrays] != planned.dtypes:
      arrays = inputs_lib.convert(inputs, arrays, planned.dtypes)
    with self._lock:
      outputs = planned.run(arrays)
    return jax.tree.unflatten(planned.out_tree, outputs)

  @property
  def plans(self) -> dict[tuple[tuple[int, ...], ...], Plan]:
    """For the shapes of the inputs' leaves, how such inputs are run."""
    return {shapes: own.plan for shapes, own in self._planned.items()}

  def __str__(self) -> str:
    lines = []
    for shapes, plan in self.plans.items():
      times = ', '.join(
        f'{way} {1e3 * seconds:.3f} ms' for way, seconds in plan.seconds.items()
      )
      part = '' if plan.part is None else f' in parts of {plan.part}'
      threads = f' on {plan.threads} threads' if plan.threads > 1 else ''
      lines.append(f'{shapes}: {plan.way}{part}{threads} ({times})')
      for choice in plan.choices if plan.way == 'engine' else ():
        lines.append(
          f'  {choice.op} {choice.shape}, density {choice.density:.3f}: '
          f'{choice.way}'
        )
    return '\n'.join(lines)


def plan(
  dense: Model,
  compact: Model,
  inputs: Sequence[PyTree],
  *,
  may_split: bool,
  tolerance: float,
) -> Planned:
  """Finds the fastest way to run inputs of these shapes.

  Args:
    dense: The function and its masked params.
    compact: A smaller function that computes the same, and its params.
    inputs: Example inputs.
    may_split: Whether axis 0 of all inputs is a batch.
    tolerance: The largest accepted difference of outputs, relative to the
      largest that is finite; what is not finite must be the same.

  Returns:
    The plan, and how to run it.

  Raises:
    UnsupportedError: If there is an operation that is not supported.
    ArithmeticError: If the outputs of another way than `dense` differ by more.
  """
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
  by_xla = {
    name: _by_xla(model, inputs)
    for name, model in {'dense': dense, 'compact': compact}.items()
  }
  expected = by_xla['dense'](leaves)
  whole = _Split(None, 1)
  graph = _graph(compact, inputs)
  engines = {whole: _engine(graph, leaves, whole)}
  accepted = _accepted(graph, tolerance)
  for name, run in {
    'The compact function': by_xla['compact'],
    'The engine': engines[whole].run,
  }.items():
    difference = _difference(run(leaves), expected)
    if not difference <= accepted:
      raise ArithmeticError(
        f'{name} differs from the function by {difference:.1e}, more than the '
        f'tolerance {accepted:.1e}. If the function amplifies rounding that '
        'much, give a larger one; if not, this is a bug of ours.'
      )
  # Parts are put together along axis 0, which is then a batch of outputs, too.
  may_split = may_split and all(
    output.shape[:1] == leaves[0].shape[:1] for output in expected
  )
  for part, threads in (_splits(len(leaves[0])) if may_split else {}).items():
    of_part = _graph_of_part(compact, inputs, part)
    if of_part is None:
      continue
    choices = None
    for count in threads:
      split = _Split(part, count)
      engine = _engine(of_part, leaves, split, choices)
      choices = engine.choices
      # It also tells whether the function treats each example by itself.
      if _difference(engine.run(leaves), expected) <= tolerance:
        engines[split] = engine

  runs = [*by_xla.values(), *(engine.run for engine in engines.values())]
  seconds = dict(
    zip(
      [*by_xla, *engines],
      timing.lower_quartiles([functools.partial(run, leaves) for run in runs]),
      strict=True,
    )
  )
  split = min(engines, key=lambda split: seconds[split])
  xla = min(by_xla, key=lambda name: seconds[name])
  is_faster = seconds[split] <= program_lib.GAIN * seconds[xla]
  return Planned(
    Plan(
      way='engine' if is_faster else xla,
      part=split.part,
      threads=split.threads,
      seconds={
        **{name: seconds[name] for name in by_xla},
        'engine': seconds[split],
      },
      choices=engines[split].choices,
    ),
    [leaf.dtype for leaf in leaves],
    engines[split].run if is_faster else by_xla[xla],
    jax.tree.structure(inputs),
    graph.out_tree,
  )


def _accepted(graph: trimming.Trimmed, tolerance: float) -> float:
  """The tolerance, or four roundings of a dtype shorter than float32."""
  dtypes = {graph.avals[v].dtype for n in graph.nodes for v in n.outputs}
  floats = [jnp.finfo(d) for d in dtypes if jnp.issubdtype(d, jnp.floating)]
  roundings = [4 * float(info.eps) for info in floats if info.bits < 32]
  return max([tolerance, *roundings])


class _Split(NamedTuple):
  """How the engine takes a batch: examples at once (or all), and threads."""

  part: int | None
  threads: int


class _Engine(NamedTuple):
  run: _Run
  choices: Sequence[program_lib.Choice]


def _splits(size: int) -> dict[int, list[int]]:
  """The sizes of parts of a batch that may pay, with numbers of threads."""
  is_alone = _cores() == 1
  found = {
    part: [1] if is_alone or size % (2 * part) else [1, 2]
    for part in PARTS
    if size > part and size % part == 0
  }
  if not is_alone and size % 2 == 0 and [1, 2] not in found.values():
    found[size // 2] = [2]
  return found


def _cores() -> int:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _graph(model: Model, inputs: Sequence[PyTree]) -> trimming.Trimmed:
  fn, params = model
  return trimming.trim(nodes.trace(fn, params, *inputs), params)


def _graph_of_part(
  model: Model, inputs: Sequence[PyTree], part: int
) -> trimming.Trimmed | None:
  """Of so many examples; `None` if the function does not take that many."""
  first = jax.tree.map(lambda leaf: leaf[:part], inputs)
  try:
    return _graph(model, first)
  except Exception:  # of the user's own function
    return None


def _engine(
  graph: trimming.Trimmed,
  leaves: Sequence[np.ndarray],
  split: _Split,
  choices: Sequence[program_lib.Choice] | None = None,
) -> _Engine:
  """The engine; each thread has a program with arrays of its own."""
  first = [leaf[: split.part] for leaf in leaves] if split.part else leaves
  programs: list[program_lib.Program] = []
  for _ in range(split.threads):
    programs.append(program_lib.build(graph, first, choices))
    choices = programs[0].choices
  run: _Run = programs[0]
  if split.part is not None:
    pool = futures.ThreadPoolExecutor(split.threads)
    run = functools.partial(_in_parts, programs, pool, split.part)
  return _Engine(run, programs[0].choices)


def _in_parts(
  programs: Sequence[program_lib.Program],
  pool: futures.Executor,
  part: int,
  leaves: Sequence[np.ndarray],
) -> list[np.ndarray]:
  """Runs each part of a batch by one of the programs."""
  count, parts = len(programs), len(leaves[0]) // part
  results = [
    np.empty((parts, *output.shape), output.dtype)
    for output in programs[0].outputs
  ]

  def run(first: int) -> None:
    for index in range(first, parts, count):
      own = slice(index * part, (index + 1) * part)
      programs[first].write(
        [leaf[own] for leaf in leaves],
        [result[index, ...] for result in results],
      )

  # This thread runs the first program, the pool the others.
  others = [pool.submit(run, first) for first in range(1, count)]
  run(0)
  for other in others:
    other.result()
  return [
    result.reshape(math.prod(result.shape[:2]), *result.shape[2:])
    for result in results
  ]


def _by_xla(model: Model, inputs: Sequence[PyTree]) -> _Run:
  fn, params = model
  compiled = jax.jit(fn).lower(params, *inputs).compile()
  treedef = jax.tree.structure(inputs)

  def run(leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
    outputs = compiled(params, *jax.tree.unflatten(treedef, leaves))
    # Copies: what JAX holds may only be read.
    return [np.array(output) for output in jax.tree.leaves(outputs)]

  return run


def _difference(
  outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> float:
  """The largest difference, relative to the largest entry of each output.

  A NaN is as far from everything but a NaN as can be, an infinity from
  everything but the same infinity.
  """
  worst = 0.0
  for output, wanted in zip(outputs, expected, strict=True):
    gap, size = differences.largest(output, wanted)
    worst = max(worst, gap / (size or 1.0))
  return worst
