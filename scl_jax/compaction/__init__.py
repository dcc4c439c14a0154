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
"""Exact removal of dead features: a smaller dense model, with a certificate.

    small = compact(fn, params, masks, images)
    small.fn(small.params, images)  # what fn(params * masks, images) is
    print(small.certificate)

A feature is dead if no live connection leaves it, or none enters it, so that it
is a constant. It is removed from every leaf that it touches; a constant is
added to the biases that follow. What cannot be proved to change nothing stays
(`scl_jax.compaction.planning` argues why), so the small model computes the same
function up to rounding, and the certificate says how far that went.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from scl_jax import checks
from scl_jax import masks as masks_lib
from scl_jax import tree as tree_lib
from scl_jax.compaction import carrying
from scl_jax.compaction import certificates
from scl_jax.compaction import reduction

PyTree = tree_lib.PyTree


@dataclasses.dataclass(frozen=True)
class CompactModel:
  """A smaller model that computes the same function.

  Attributes:
    fn: Takes `(params, *inputs)` as the original did, with the small params;
      it jits, differentiates, vmaps and exports like any other function. What
      was left out is proved again for every new shape of the inputs, which
      takes the values of the original params: they are kept, in host memory.
    params: The small params.
    certificate: What was removed, and the measured differences.
  """

  fn: Callable[..., Any]
  params: PyTree
  certificate: certificates.Certificate

  def carry(self, opt_state: PyTree) -> PyTree:
    """An optimizer's state for the small params, to train on.

    A density that `scl` is driven to stays a share of the original connections,
    so that as many are live in the end. Training goes on as with the original
    params, but for constants, such as the bias of a feature without inputs,
    that have gone into other biases and would have been trained apart; and but
    for what depends on the size of a leaf: an optimizer that takes norms or
    products of whole leaves (LAMB, LARS, Muon) or draws random numbers for them
    (`add_noise`, Sophia), and mask variables that stand for several connections
    and still train, whose gradient is their mean. An average of params
    (`optax.ema`) cannot be told from one of gradients: start it anew.

    Args:
      opt_state: The state of any optax optimizer, `scl_jax.sparsify` included,
        for the original params.

    Returns:
      A state of the same structure: moments, weights and masks without what was
      removed.

    Raises:
      ValueError: If a leaf cannot be cut, such as a factored moment or a mask
        variable for a block.

    Example:
      >>> params = {'w': jnp.ones((3, 4)), 'v': jnp.eye(4, 2)}
      >>> fn = lambda p, x: jnp.tanh(x @ p['w']) @ p['v']
      >>> small = compact(fn, params, None, jnp.ones((5, 3)))
      >>> state = small.carry(optax.adam(1e-3).init(params))
      >>> state[0].mu['w'].shape
      (3, 2)
    """
    assert isinstance(self.fn, reduction.Reduction)
    return carrying.carry(self.fn, opt_state)


def compact(
  fn: Callable[..., Any],
  params: PyTree,
  masks: PyTree,
  *example_inputs: Any,
  drop_inputs: bool = False,
  verify: bool = True,
  tolerance: float = 1e-5,
) -> CompactModel:
  """Removes features that are dead.

  Features that are tied, by a residual addition say, go together or stay. The
  shapes of inputs and outputs stay. Dropped features need no gradient, and
  constants become part of the biases, so the small model may be trained on.

  Of dead features these stay. In a grouped convolution a group goes with all of
  its filters and inputs or stays whole: single filters do not go, nor groups of
  the model's input (they do with `drop_inputs`). Where a convolution reads a
  channel that is constant, but another constant at each position, no bias can
  take that: behind a dense layer and a reshape in a decoder, say.

  A `scan` whose steps have at most 1,000 equations in all is written out, so
  that recurrent units can go; features that a longer loop touches stay. Where a
  reshape splits an axis, into heads say, either whole heads may go or features
  within heads, in all of the network: whichever leaves less.

  Args:
    fn: Any function `fn(params, *inputs)` that JAX can trace: a forward pass.
    params: Its params: any pytree of arrays, BatchNorm's statistics included.
    masks: As `scl_jax.get_masks` gives them; `None` at other leaves, or at all.
    *example_inputs: Inputs of the kind that it will see. For inputs of other
      shapes `fn` is traced and analysed again.
    drop_inputs: Also remove the weights of inputs that nothing depends on; the
      small model takes whole inputs all the same, and picks what it uses.
    verify: Whether to run both models, measure how much they differ, and raise
      if that is more than `tolerance`.
    tolerance: The largest accepted difference of outputs, relative to the
      largest output or 1. In dtypes shorter than float64 four times the
      rounding of the model before is accepted, if that is more.

  Returns:
    The `CompactModel`.

  Raises:
    ValueError: If trees do not fit, or params are not finite; in its `fn`, if
      params do not fit, or inputs of new shapes make removed features matter.
    ArithmeticError: If `verify` and the tolerance is exceeded.

  Example:
    >>> params = {'w': jnp.ones((3, 4)), 'b': jnp.ones(4), 'v': jnp.eye(4, 2)}
    >>> masks = {'w': None, 'b': None, 'v': params['v']}
    >>> fn = lambda p, x: jax.nn.relu(x @ p['w'] + p['b']) @ p['v']
    >>> small = compact(fn, params, masks, jnp.ones((5, 3)))
    >>> {name: leaf.shape for name, leaf in small.params.items()}
    {'b': (2,), 'v': (2, 2), 'w': (3, 2)}
    >>> small.fn(small.params, jnp.ones((1, 3))).shape
    (1, 2)
  """
  checks.check_scalar(
    'tolerance', tolerance, lambda x: x >= 0, 'finite and >= 0'
  )
  tree_lib.check_arrays(params, 'params')
  masked = masks_lib.apply_masks(params, masks)
  for path, leaf in tree_lib.zip_leaves(masked):
    if not bool(jnp.isfinite(leaf).all()):
      raise ValueError(
        f'params must be finite, but {path!r} is not: 0 times that is no 0.'
      )
  is_abstract = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
  if verify and any(map(is_abstract, jax.tree.leaves(example_inputs))):
    raise ValueError(
      'example_inputs must be arrays, as the functions are compared on them: '
      'give jnp.zeros of the shape, or verify=False.'
    )
  reduced = reduction.Reduction(fn, masked, masks, example_inputs, drop_inputs)
  certificate = certificates.certify(
    reduced, example_inputs, tolerance if verify else None
  )
  return CompactModel(reduced, reduced.small_params, certificate)
