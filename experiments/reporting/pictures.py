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
"""Masks as PNG pictures, small enough to lie in a page.

A pixel is a connection. A picture is a palette PNG: index 0 is a gap, 1 a
pruned connection and 255 a live one; the palette is one colour of growing
opacity, so that the same picture fits a light and a dark page.
"""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

# Larger pictures are slow in a browser; beyond, a pixel is a block.
_MOST_PIXELS = 4_000_000
_COLOUR = (31, 138, 190)
_FAINTEST = 26  # opacity of a pruned connection, of 255


class Picture(NamedTuple):
  """A mask that can be looked at.

  Attributes:
    source: A PNG, as a data URI.
    height: In pixels.
    width: In pixels.
    caption: What its rows and columns are.
  """

  source: str
  height: int
  width: int
  caption: str


def mask_picture(mask: np.ndarray) -> Picture:
  """The picture of a mask.

  Args:
    mask: Bool, of any rank but 0. Of rank 4, (height, width, inputs, filters),
      it becomes a grid of kernels, of another rank a matrix with the last axis
      as columns.

  Returns:
    A `Picture`.
  """
  if mask.ndim == 4:
    ink = _kernel_grid(mask)
    height, width, inputs, filters = mask.shape
    caption = (
      f'A grid of {inputs} × {filters} kernels of {height} × {width}: a row '
      'for each input channel, a column for each filter.'
    )
  else:
    ink = mask.reshape(-1, mask.shape[-1]).astype(np.float32)
    caption = (
      f'{ink.shape[0]} × {ink.shape[1]}: a row for each input, a column for '
      'each unit.'
    )
  block = int(np.ceil(np.sqrt(ink.size / _MOST_PIXELS)))
  if block > 1:
    ink = _blocks(ink, block)
    caption += f' A pixel is a block of {block} × {block}; darker is denser.'
  # Gaps are NaN.
  index = np.where(np.isnan(ink), 0, 1 + np.rint(254 * np.nan_to_num(ink)))
  height, width = index.shape
  return Picture(_png(index.astype(np.uint8)), height, width, caption)


def _kernel_grid(mask: np.ndarray) -> np.ndarray:
  """Kernels side by side, with gaps of one pixel."""
  height, width, inputs, filters = mask.shape
  grid = np.full((inputs, height + 1, filters, width + 1), np.nan, np.float32)
  grid[:, :height, :, :width] = mask.transpose(2, 0, 3, 1)
  return grid.reshape(inputs * (height + 1), -1)[:-1, :-1]


def _blocks(ink: np.ndarray, block: int) -> np.ndarray:
  """The mean of each block; those at the ends may be smaller."""
  padding = [(0, -size % block) for size in ink.shape]
  padded = np.pad(ink, padding, constant_values=np.nan)
  rows, columns = (size // block for size in padded.shape)
  tiles = padded.reshape(rows, block, columns, block)
  known = ~np.isnan(tiles)
  number = known.sum(axis=(1, 3))
  total = np.where(known, tiles, 0).sum(axis=(1, 3))
  return np.where(number, total / np.maximum(number, 1), np.nan)


def _png(index: np.ndarray) -> str:
  image = Image.fromarray(index, mode='P')
  image.putpalette(_COLOUR * 256)
  opacity = [0, *np.linspace(_FAINTEST, 255, 255).round().astype(int).tolist()]
  file = io.BytesIO()
  image.save(file, 'PNG', transparency=bytes(opacity), optimize=True)
  return 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()
