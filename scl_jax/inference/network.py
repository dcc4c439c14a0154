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
import functools
import threading
from typing import Any, NamedTuple

import jax
import numpy as np

from scl_jax import tree as tree_lib
from scl_jax.graph import nodes
from scl_jax.inference import program as program_lib
from scl_jax.inference import timing
from scl_jax.inference import trimming

PyTree = tree_lib.PyTree
Model = tuple[Callable[..., Any], PyTree]
_Run = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]

# Larger batches may be run in parts of so many examples, that stay in cache.
PART = 32


class Plan(NamedTuple):
  """How inputs of some shapes are run, and why.

  Attributes:
    way: `'engine'`; or `'compact'` or `'dense'`, by XLA.
    part: How many examples the engine takes at once; `None` for all.
    seconds: The time of each way, of the engine with the `part` that is faster.
    choices: How the engine runs each product; `way` is their own.
  """

  way: str
  part: int | None
  seconds: Mapping[str, float]
  choices: Sequence[program_lib.Choice]


class Planned(NamedTuple):
  """A plan that can be run.

  Attributes:
    plan: The plan.
    run: From the leaves of the inputs to those of the outputs.
    out_tree: The structure of the outputs.
  """

  plan: Plan
  run: _Run
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
      What `fn` returns, of NumPy arrays.

    Raises:
      ValueError: If it was not compiled for such shapes.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
    shapes = tuple(leaf.shape for leaf in leaves)
    planned = self._planned.get(shapes)
    if planned is None:
      raise ValueError(
        f'inputs must have shapes that the network was compiled for, '
        f'{" or ".join(map(str, self._planned))}; got {shapes}. Name all sizes '
        'of batches in batch_sizes.'
      )
    with self._lock:
      outputs = planned.run(leaves)
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
      lines.append(f'{shapes}: {plan.way}{part} ({times})')
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
      largest output.

  Returns:
    The plan, and how to run it.

  Raises:
    UnsupportedError: If there is an operation that is not supported.
    ArithmeticError: If the engine's outputs differ by more.
  """
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
  by_xla = {
    name: _by_xla(model, inputs)
    for name, model in {'dense': dense, 'compact': compact}.items()
  }
  program, out_tree = _program(compact, inputs)
  expected = by_xla['dense'](leaves)
  difference = _difference(program(leaves), expected)
  if not difference <= tolerance:
    raise ArithmeticError(
      f'The engine differs from the function by {difference:.1e}, more than '
      f'the tolerance {tolerance:.1e}. If the function amplifies rounding '
      'that much, give a larger one; if not, this is a bug of ours.'
    )
  engines: dict[int | None, tuple[program_lib.Program, _Run]] = {
    None: (program, program)
  }
  if may_split and len(leaves[0]) > PART and len(leaves[0]) % PART == 0:
    first = jax.tree.map(lambda leaf: leaf[:PART], inputs)
    part, _ = _program(compact, first)
    run = functools.partial(_in_parts, part)
    # It also tells whether the function treats each example by itself.
    if _difference(run(leaves), expected) <= tolerance:
      engines[PART] = part, run

  runs = {**by_xla, **{part: run for part, (_, run) in engines.items()}}
  seconds = dict(
    zip(
      runs,
      timing.medians([functools.partial(run, leaves) for run in runs.values()]),
      strict=True,
    )
  )
  part = min(engines, key=lambda key: seconds[key])
  xla = min(by_xla, key=lambda key: seconds[key])
  is_faster = seconds[part] <= program_lib.GAIN * seconds[xla]
  return Planned(
    Plan(
      way='engine' if is_faster else xla,
      part=part,
      seconds={
        **{name: seconds[name] for name in by_xla},
        'engine': seconds[part],
      },
      choices=engines[part][0].choices,
    ),
    engines[part][1] if is_faster else by_xla[xla],
    out_tree,
  )


def _by_xla(model: Model, inputs: Sequence[PyTree]) -> _Run:
  fn, params = model
  compiled = jax.jit(fn).lower(params, *inputs).compile()
  treedef = jax.tree.structure(inputs)

  def run(leaves: Sequence[np.ndarray]) -> list[np.ndarray]:
    outputs = compiled(params, *jax.tree.unflatten(treedef, leaves))
    return [np.asarray(output) for output in jax.tree.leaves(outputs)]

  return run


def _program(
  model: Model, inputs: Sequence[PyTree]
) -> tuple[program_lib.Program, Any]:
  fn, params = model
  graph = nodes.trace(fn, params, *inputs)
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(inputs)]
  program = program_lib.Program(trimming.trim(graph, params), leaves)
  return program, graph.out_tree


def _in_parts(
  program: program_lib.Program, leaves: Sequence[np.ndarray]
) -> list[np.ndarray]:
  outputs = [
    program([leaf[start : start + PART] for leaf in leaves])
    for start in range(0, len(leaves[0]), PART)
  ]
  return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def _difference(
  outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> float:
  """The largest difference, relative to the largest entry of each output."""
  worst = 0.0
  for output, wanted in zip(outputs, expected, strict=True):
    if output.shape != wanted.shape:
      return np.inf
    wide = np.asarray(wanted, np.float64)
    scale = np.abs(wide).max(initial=0) or 1.0
    worst = max(worst, float(np.abs(output - wide).max(initial=0) / scale))
  return worst
