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
"""Pictures of a run, as PNG files."""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import jax
import matplotlib.figure as mpl_figure
import matplotlib.ticker as mpl_ticker
import numpy as np

import scl_jax
from scl_jax import atomic
from scl_jax import tree as tree_lib

_BLUE, _ORANGE, _GREY = '#0b6e99', '#d9730d', '#787774'


def save(path: str, figure: mpl_figure.Figure) -> None:
  """Replaces a PNG file at once, so that it is never half-written.

  Args:
    path: The file.
    figure: What it shall show.
  """
  image = io.BytesIO()
  figure.savefig(image, format='png', dpi=120)
  atomic.write(path, image.getvalue())


def training(path: str, history: Sequence[Mapping[str, float]]) -> None:
  """Loss, validation accuracy and density over the steps of a run.

  Args:
    path: The PNG file to write.
    history: One mapping for each point, with `step`, `loss`, `density` and,
      at some points, `validation_accuracy`.
  """
  figure = mpl_figure.Figure(figsize=(8, 5), layout='constrained')
  upper, lower = figure.subplots(2, 1, sharex=True)
  steps = [point['step'] for point in history]

  losses = [point['loss'] for point in history]
  upper.plot(steps, losses, color=_GREY)
  upper.set(ylabel='training loss', yscale=_scale(losses))
  known = [point for point in history if 'validation_accuracy' in point]
  if known:
    accuracy = upper.twinx()
    accuracy.plot(
      [point['step'] for point in known],
      [100 * point['validation_accuracy'] for point in known],
      color=_BLUE,
      marker='.',
    )
    accuracy.set_ylabel('validation accuracy (%)', color=_BLUE)
  densities = [point['density'] for point in history]
  lower.plot(steps, densities, color=_ORANGE)
  lower.set(xlabel='step', ylabel='density', yscale=_scale(densities))
  lower.yaxis.set_major_formatter(mpl_ticker.PercentFormatter(1.0))
  save(path, figure)


def _scale(values: Sequence[float]) -> str:
  """Logarithmic, where anything can be drawn so."""
  return 'log' if any(value > 0 for value in values) else 'linear'


def layers(path: str, masks: Any) -> None:
  """The density of each layer, as bars.

  Args:
    path: The PNG file to write.
    masks: As `scl_jax.get_masks` gives them.
  """
  names = tree_lib.paths(masks)
  densities = [float(d) for d in jax.tree.leaves(scl_jax.layer_density(masks))]
  figure = mpl_figure.Figure(
    figsize=(8, 1 + 0.35 * len(names)), layout='constrained'
  )
  axes = figure.subplots()
  bars = axes.barh(names, densities, color=_ORANGE)
  axes.bar_label(bars, [f' {100 * d:.2f} %' for d in densities])
  axes.invert_yaxis()
  axes.set(xlabel='density', xlim=(0, 1.2 * max([*densities, 1e-6])))
  axes.xaxis.set_major_formatter(mpl_ticker.PercentFormatter(1.0))
  axes.spines[['top', 'right']].set_visible(False)
  save(path, figure)


def inputs(path: str, masks: Any, image_shape: tuple[int, ...]) -> None:
  """How many connections each input pixel keeps; for the first layer.

  For a convolution: how many filters keep each entry of the kernel.

  Args:
    path: The PNG file to write.
    masks: As `scl_jax.get_masks` gives them; the first leaf is the first layer.
    image_shape: (height, width, channels) of an input.
  """
  first = np.asarray(jax.tree.leaves(masks)[0])
  counts = first.sum(axis=-1)
  if first.ndim == 2 and counts.size == np.prod(image_shape):
    counts = counts.reshape(image_shape)
    title = 'connections that each input pixel keeps'
  elif first.ndim < 4:
    return  # the first leaf does not see pixels
  else:
    title = 'filters that keep each entry of the kernel'
  counts = counts.sum(axis=-1)
  figure = mpl_figure.Figure(figsize=(5, 4.2), layout='constrained')
  axes = figure.subplots()
  image = axes.imshow(counts, cmap='viridis', vmin=0)
  figure.colorbar(image, ax=axes)
  axes.set(title=title, xticks=[], yticks=[])
  save(path, figure)
