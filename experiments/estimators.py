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
"""The positivity principle, made visible on one mask variable.

    python -m experiments.estimators

A straight-through estimator must have a positive derivative (arXiv 2201.05020,
abstract). This script follows one mask variable by gradient descent under each
estimator and prints

- *stuck*: of starts in [-8, 8] on the wrong side, the share that is still there
  after 200,000 steps of 0.01;
- *return*: steps from m = -1.5 to m > 0 when the gradient of the mask is -1;
- *open at 0.3*, *at 0.7*: the share of time that the mask is open when the loss
  is (h - 0.3)² / 2 or (h - 0.7)² / 2 in the mask value h; unbiased is 0.3, 0.7.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command_line
from scl_jax import ste

Derivative = Callable[[jax.Array], jax.Array]

_LEARNING_RATE = 1e-3
_MOST_STEPS = 200_000


def steps_to_return(derivative: Derivative, start: float = -1.5) -> int | None:
  """Steps until m > 0 when the gradient of the mask value is -1.

  Args:
    derivative: s', a function from `scl_jax.ste`.
    start: The first m, on the wrong side.

  Returns:
    The number of steps; `None` if m never gets there.
  """

  def is_closed(carry):
    m, count = carry
    return (m <= 0) & (count < _MOST_STEPS)

  def body(carry):
    m, count = carry
    return m + _LEARNING_RATE * derivative(m), count + 1

  with jax.enable_x64(True):
    _, count = jax.lax.while_loop(
      is_closed, body, (jnp.asarray(start, jnp.float64), 0)
    )
  steps = int(count)
  return steps if steps < _MOST_STEPS else None


def share_stuck(derivative: Derivative) -> float:
  """Of starts in [-8, 8] on the wrong side, the share that stays there.

  Args:
    derivative: s', a function from `scl_jax.ste`.

  Returns:
    A share in [0, 1]; the gradient is -1 for closed masks that should be open,
    and +1 for open masks that should be closed.
  """
  starts = np.concatenate(
    [np.linspace(-8, -0.01, 60), np.linspace(0.01, 8, 60)]
  ).astype(np.float32)

  def body(_, m):
    wrong = jnp.where(starts < 0, m <= 0, m > 0)
    return m - jnp.where(wrong, jnp.sign(starts) * derivative(m) * 0.01, 0.0)

  end = jax.lax.fori_loop(0, _MOST_STEPS, body, jnp.asarray(starts))
  return float(jnp.mean(jnp.where(starts < 0, end <= 0, end > 0)))


def share_open(derivative: Derivative, optimum: float) -> float:
  """The share of time with an open mask, for the loss (h - optimum)² / 2.

  Args:
    derivative: s', a function from `scl_jax.ste`.
    optimum: The best mask value, in (0, 1).

  Returns:
    The share over 100,000 steps.
  """

  def body(carry, _):
    h = (carry > 0).astype(carry.dtype)
    return carry - _LEARNING_RATE * (h - optimum) * derivative(carry), h

  _, opens = jax.lax.scan(body, jnp.float32(0.0005), None, length=100_000)
  return float(opens.mean())


def table() -> str:
  """All of it, as Markdown."""
  lines = [
    '| estimator | stuck | return | open at 0.3 | open at 0.7 |',
    '|---|--:|--:|--:|--:|',
  ]
  for name, derivative in ste.ESTIMATORS.items():
    count = steps_to_return(derivative)
    lines.append(
      f'| {name} | {share_stuck(derivative):.0%} | '
      f'{"never" if count is None else f"{count:,}"} | '
      f'{share_open(derivative, 0.3):.3f} | '
      f'{share_open(derivative, 0.7):.3f} |'
    )
  return '\n'.join(lines)


def main() -> None:
  """Prints the table."""
  print(table())


if __name__ == '__main__':
  command_line.run(main)
