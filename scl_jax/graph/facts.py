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
"""What is known of an array before any input is seen.

A fact has one entry for each labelled index (`labels.sizes`): along the other
axes it says the same of all positions, so facts hold for every batch size.
"""

from typing import Any, NamedTuple

import jax
from jax import core
import numpy as np

from scl_jax.graph import labels as labels_lib


class Fact(NamedTuple):
  """Entries that do not depend on the inputs.

  Attributes:
    value: The entries' values, 0 where unknown.
    known: Whether an entry is known.
  """

  value: np.ndarray
  known: np.ndarray

  @property
  def zero(self) -> np.ndarray:
    """Whether an entry is known to be 0."""
    return self.known & (self.value == 0)


def unknown(aval: Any, labels: labels_lib.Labels) -> Fact:
  """Nothing is known."""
  shape = labels_lib.sizes(labels)
  is_number = isinstance(aval.dtype, np.dtype)
  dtype = aval.dtype if is_number else np.dtype(np.float32)
  return Fact(np.zeros(shape, dtype), np.zeros(shape, bool))


def constant(aval: Any, value: Any, labels: labels_lib.Labels) -> Fact:
  """All is known, unless the value is traced or no array of numbers."""
  if isinstance(value, core.Tracer) or not isinstance(aval.dtype, np.dtype):
    return unknown(aval, labels)
  value = np.asarray(value, aval.dtype)
  return project(Fact(value, np.ones(value.shape, bool)), labels)


def project(fact: Fact, labels: labels_lib.Labels) -> Fact:
  """The fact along fewer axes: known where it is the same at all positions."""
  value, known = np.broadcast_arrays(*fact)
  for axis, size in enumerate(labels_lib.sizes(labels)):
    if value.shape[axis] == 0 and size == 1:
      shape = (*value.shape[:axis], 1, *value.shape[axis + 1 :])
      value, known = np.zeros(shape, value.dtype), np.zeros(shape, bool)
    elif value.shape[axis] != size and size == 1:
      first = value.take([0], axis)
      known = (known & (value == first)).all(axis, keepdims=True)
      value = first
  shape = np.broadcast_shapes(known.shape, labels_lib.sizes(labels))
  value, known = np.broadcast_to(value, shape), np.broadcast_to(known, shape)
  return Fact(np.where(known, value, np.zeros_like(value)), known)


def fit(need: np.ndarray, labels: labels_lib.Labels) -> np.ndarray:
  """Needs along other axes: needed where any position is."""
  if not labels:
    return np.asarray(need.any())
  shape = labels_lib.sizes(labels)
  for axis, size in enumerate(shape):
    if size == 1 and need.shape[axis] != 1:
      need = np.logical_or.reduce(need, axis, keepdims=True)
  return np.broadcast_to(need, shape)


def evaluate(bind: Any, params: dict[str, Any], *values: np.ndarray):
  """Runs an elementwise primitive on arrays that broadcast.

  They are flattened and padded to a power of two, as XLA compiles for each
  size anew.
  """
  values = np.broadcast_arrays(*values)
  shape, size = values[0].shape, values[0].size
  padded = max(64, 1 << (size - 1).bit_length() if size else 0)
  flat = [
    np.resize(v, padded) if size else np.ones(padded, v.dtype) for v in values
  ]
  with jax.ensure_compile_time_eval(), np.errstate(all='ignore'):
    (result,) = bind(*flat, **params)
  return np.asarray(result)[:size].reshape(shape)
