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
"""Sparse inference on a CPU, outside JAX: a network that skips its zeros.

    network = scl_jax.inference.compile(fn, params, masks, images)
    logits = network(images)  # NumPy arrays

`compile` follows the jaxpr of `fn`, whatever library it is written in, and
makes a short list of array operations of it: what depends on params alone is
computed once, dead features are removed (`scl_jax.compact`), biases, BatchNorm,
residual additions and ReLUs are done while a product's result is written.

Arrays lie features first, batch last. Then a connection of a dense layer and
one of a convolution are the same: a value times a contiguous run of entries,
added to another run (`scl_jax.inference.vectors.offset_csr`). Dense layers with
BLAS take that layout as well, so there is one for the whole network.

What is fastest depends on the machine, the density and the batch, so it is
measured when a network is compiled: for each product BLAS or a sparse kernel,
and for the whole network this engine or XLA. What is sparse has to gain 15 %.

Needs numba: `pip install 'scl_jax[inference]'`.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scl_jax import checks
from scl_jax import compaction
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib
from scl_jax.inference import network as network_lib
from scl_jax.inference.errors import UnsupportedError as UnsupportedError
from scl_jax.inference.network import Network as Network
from scl_jax.inference.network import Plan as Plan

PyTree = tree_lib.PyTree


def compile(
  fn: Callable[..., Any],
  params: PyTree,
  masks: PyTree,
  *example_inputs: Any,
  batch_sizes: Sequence[int] | None = None,
  tolerance: float = 1e-5,
) -> Network:
  """Makes a network that runs on NumPy arrays and skips what is pruned.

  It takes seconds to minutes, as it measures what is fastest: leave the machine
  alone meanwhile.

  Args:
    fn: Any function `fn(params, *inputs)` that JAX can trace: a forward pass,
      with products in float32.
    params: Its params: any pytree of arrays, BatchNorm's statistics included.
    masks: As `scl_jax.get_masks` gives them; `None` at other leaves, or at all.
    *example_inputs: Inputs of the kind that it will see.
    batch_sizes: The sizes of batches that it will see, whole numbers >= 1; the
      example inputs must then have the batch as axis 0. `None` for the example
      inputs' shapes.
    tolerance: The largest accepted difference from `fn`, relative to the
      largest output that is finite; a NaN or an infinity of `fn` must be the
      same here, and nothing else may become one. Where `fn` computes in dtypes
      shorter than float32, four times their rounding is accepted.

  Returns:
    The `Network`; printed, it says what it does.

  Raises:
    ImportError: Without numba.
    ValueError: If trees do not fit, params are not finite, inputs are no
      numbers, there is no axis for a batch, or `batch_sizes` are no sizes.
    UnsupportedError: If there is an operation that is not supported.
    ArithmeticError: If the outputs differ by more than `tolerance`.

  Example:
    >>> params = {'w': jnp.eye(64, 32), 'b': jnp.ones(32)}
    >>> masks = {'w': params['w'], 'b': None}
    >>> fn = lambda p, x: jax.nn.relu(x @ p['w'] + p['b'])
    >>> network = compile(fn, params, masks, jnp.ones((8, 64)))
    >>> network(np.ones((8, 64), np.float32)).sum()
    np.float32(512.0)
  """
  checks.check_scalar(
    'tolerance', tolerance, lambda x: x >= 0, 'finite and >= 0'
  )
  _check_sizes(batch_sizes)
  sized_inputs = _of_sizes(example_inputs, batch_sizes)
  masked = masks_lib.apply_masks(params, masks)
  small = compaction.compact(fn, params, masks, *example_inputs, verify=False)
  planned = {}
  for inputs in sized_inputs:
    shapes = tuple(leaf.shape for leaf in jax.tree.leaves(inputs))
    planned[shapes] = network_lib.plan(
      (fn, masked),
      (small.fn, small.params),
      inputs,
      may_split=batch_sizes is not None,
      tolerance=tolerance,
    )
  return Network(planned)


def _check_sizes(batch_sizes: Any) -> None:
  """Raises unless they are sizes of batches, or `None`."""
  sizes = list(batch_sizes) if np.iterable(batch_sizes) else []
  if batch_sizes is not None and not (
    sizes
    and all(
      isinstance(size, (int, np.integer))
      and not isinstance(size, bool)
      and size >= 1
      for size in sizes
    )
  ):
    raise ValueError(
      'batch_sizes must be a sequence of whole numbers >= 1, such as [1, 32], '
      f"or None for the example inputs' shapes; got {batch_sizes!r}."
    )


def _of_sizes(
  example_inputs: Sequence[PyTree], batch_sizes: Sequence[int] | None
) -> list[tuple[PyTree, ...]]:
  """Random inputs like the examples, for each size."""
  for path, leaf in tree_lib.zip_leaves(tuple(example_inputs)):
    if isinstance(leaf, jax.ShapeDtypeStruct):
      raise ValueError(
        'example_inputs must be arrays, as the network is run on them, but '
        f'{path!r} is a ShapeDtypeStruct: give jnp.zeros of its shape.'
      )
    if not isinstance(jnp.asarray(leaf).dtype, np.dtype):
      raise ValueError(
        f'example_inputs must be arrays of numbers, but {path!r} is '
        f'{leaf.dtype}: what is random does not run here.'
      )
  # Of the dtypes that JAX gives them.
  examples = jax.tree.map(
    lambda leaf: np.asarray(jnp.asarray(leaf)), tuple(example_inputs)
  )
  shapes = [leaf.shape for leaf in jax.tree.leaves(examples)]
  if batch_sizes is not None and (
    not shapes or any(0 in (*shape, len(shape)) for shape in shapes)
  ):
    raise ValueError(
      'example_inputs must have a batch as axis 0 if there are batch_sizes; '
      f'got shapes {shapes}.'
    )
  rng = np.random.default_rng(0)

  def resized(leaf: np.ndarray, size: int | None) -> np.ndarray:
    if size is not None:
      leaf = np.resize(leaf, (size, *leaf.shape[1:]))
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    noise = rng.normal(size=leaf.shape) * (leaf.std() or 1.0)
    return (leaf + noise).astype(leaf.dtype)

  sizes = [None] if batch_sizes is None else dict.fromkeys(batch_sizes)
  return [
    jax.tree.map(functools.partial(resized, size=size), examples)
    for size in sizes
  ]
