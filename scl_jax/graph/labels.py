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
"""Which indices of which arrays stand or fall together.

Every index of an axis that may lose indices has an id. `x + y` ties the ids of
x to those of y, a product those of the two axes that it sums over, so that in
the end each id belongs to a group: a feature, with all the places where it
lives. Axes whose label is `None` (batch, positions) are always kept whole.
"""

from collections.abc import Sequence

import numpy as np

Label = np.ndarray | None
Labels = tuple[Label, ...]


class Ties:
  """Collects ids, which of them are tied, and which must stay.

  Attributes:
    prefer_first: Where a reshape joins or splits several axes that could each
      carry features, which one does: the first or the last.
    had_choice: Whether there was such a reshape.
  """

  def __init__(self, *, prefer_first: bool = True):
    self.prefer_first = prefer_first
    self.had_choice = False
    self._count = 0
    self._edges: list[tuple[np.ndarray, np.ndarray]] = []
    self._pinned: list[np.ndarray] = []

  def fresh(self, size: int) -> np.ndarray:
    """New ids, one for each index of an axis."""
    self._count += size
    return np.arange(self._count - size, self._count)

  def tie(self, first: Label, second: Label) -> Label:
    """Ties two axes of equal size; a whole axis keeps the other whole."""
    if first is None or second is None:
      self.pin(first)
      self.pin(second)
      return None
    if first is not second:
      self._edges.append((first, second))
    return first

  def tie_all(self, labels: Sequence[Label]) -> Label:
    """Ties axes of equal size; where one is whole, all stay whole."""
    result = labels[0]
    for label in labels[1:]:
      result = self.tie(result, label)
    if result is None:
      for label in labels:
        self.pin(label)
    return result

  def pin(self, ids: Label) -> None:
    """Keeps the indices."""
    if ids is not None:
      self._pinned.append(ids)

  def groups(self) -> tuple[np.ndarray, np.ndarray]:
    """The group of each id, numbered by its least id, and whether it is pinned.

    Returns:
      Arrays [ids] of int and, indexed by group, of bool.
    """
    groups = np.arange(self._count)
    first = _joined([a for a, _ in self._edges])
    second = _joined([b for _, b in self._edges])
    while True:
      least = np.minimum(groups[first], groups[second])
      before = groups.copy()
      for side in (first, second):
        np.minimum.at(groups, before[side], least)
        np.minimum.at(groups, side, least)
      groups = groups[groups]
      if np.array_equal(groups, before):
        break
    pinned = np.zeros(self._count, bool)
    pinned[groups[_joined(self._pinned)]] = True
    return groups, pinned


def sizes(labels: Labels) -> tuple[int, ...]:
  """The shape of an array that has one entry for each labelled index."""
  return tuple(1 if ids is None else len(ids) for ids in labels)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.zeros(0, int), *arrays])
