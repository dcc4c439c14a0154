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
"""One page about a run, a sweep or a comparison, for a browser or a phone.

    python -m experiments.report --workdir=workdirs/demo

writes `report.html` into the workdir: a single file that needs no network, with
headline, curves, layers, masks to zoom into, costs, the doctor's findings, and
how to repeat it. `experiments.main`, `experiments.sweep` and
`experiments.compare` write it at their end. Run it again after
`experiments.compact` for the certificate.

For births and deaths of connections train with `--config.mask_history`; what
that costs is in `experiments.mask_history`.
"""

from collections.abc import Mapping
import json
import os
from typing import Any

from absl import flags
import numpy as np

from experiments import artifacts
from experiments import command_line
from experiments import mask_history
from experiments import result_store
from experiments.reporting import charts
from experiments.reporting import page
from experiments.reporting import pictures
from experiments.reporting import reading

_NAME = 'report.html'
# A heat map of more cells would be slow in a browser.
_MOST_CELLS = 16_384
_MOST_CARDS = 8


def write(workdir: str) -> str:
  """Writes the report of a workdir into it.

  Args:
    workdir: Of a finished run, or of a sweep or comparison.

  Returns:
    The path of the file.

  Raises:
    FileNotFoundError: If there is no such run.
    ValueError: If what is there cannot be shown.
  """
  read = reading.read(workdir)
  values = _run(read) if isinstance(read, reading.Run) else _front(read)
  specs = {name: s for _, group in values['groups'] for name, _, s in group}
  path = os.path.join(workdir, _NAME)
  name = os.path.basename(os.path.abspath(workdir))
  artifacts.write_text(path, page.render(name=name, specs=specs, **values))
  return path


def _run(run: reading.Run) -> dict[str, Any]:
  """What the page says of a run."""
  result, config = run.result, run.config
  live = sum(layer.live for layer in run.layers)
  total = sum(layer.mask.size for layer in run.layers)
  accuracy = f'{100 * result["test_accuracy"]:.2f} %'
  cards = [
    ('test accuracy', accuracy),
    ('density', f'{100 * result["density"]:.3g} %'),
    ('live connections', f'{live:,} of {total:,}'),
  ]
  if 'dense_test_accuracy' in result:
    dense = f'{100 * result["dense_test_accuracy"]:.2f} %'
    cards.insert(1, ('dense test accuracy', dense))
  cards.append(('training', f'{result["seconds"]:.1f} s'))
  return {
    'headline': (
      f'{accuracy} with {100 * result["density"]:.3g} % of the connections'
      if config['method'] != 'dense'
      else f'{accuracy}, dense'
    ),
    'subtitle': (
      f'{config["model"]} on {config["dataset"]}, {config["method"]}, '
      f'{config["epochs"]} epochs, seed {config["seed"]}'
    ),
    'cards': cards,
    'findings': result.get('findings', []),
    'groups': _groups(
      ('Over time', _curves(run)),
      ('Layers', _layers(run) + _inputs(run)),
      ('Births and deaths', _births(run)),
    ),
    'masks': {
      layer.name: {
        **pictures.mask_picture(layer.mask)._asdict(),
        'numbers': _live_of_all(layer),
      }
      for layer in run.layers
      if layer.mask.size
    },
    'tables': [('Costs', run.table)],
    'certificate': run.certificate,
    'compaction': run.compaction,
    **_how(run),
  }


def _front(front: reading.Front) -> dict[str, Any]:
  """What the page says of a sweep or a comparison."""
  sparse = [row for row in front.rows if row['method'] != 'dense']
  chart = charts.front(
    front.rows,
    front.split,
    f'{front.split} accuracy against the share of live connections',
  )
  spread = (
    'Mean and sample standard deviation over seeds.'
    if any(row['accuracy_std'] is not None for row in front.rows)
    else 'One seed each, so without error bars.'
  )
  runs = round(sum(row['seeds'] for row in front.rows))
  methods = list(dict.fromkeys(row['method'] for row in sparse))
  return {
    'headline': 'Accuracy against density',
    'subtitle': (
      f'{front.config["model"]} on {front.config["dataset"]}, '
      f'{front.config["epochs"]} epochs, {runs} runs: {", ".join(methods)}'
    ),
    'cards': [
      (f'{row["method"]}, {row["density"]:.3g} %', _mean_and_std(row))
      for row in front.rows
      if len(front.rows) <= _MOST_CARDS
    ],
    'findings': front.findings,
    'groups': _groups(('The front', [('front', spread, chart)])),
    'masks': {},
    'tables': [('All numbers', front.table)],
    'certificate': None,
    'compaction': None,
    **_how(front),
  }


def _groups(*groups: tuple[str, list[tuple[str, str, Any]]]) -> list[Any]:
  """Titles with charts (name, caption, specification); those that are there."""
  kept = [(title, [c for c in found if c[2]]) for title, found in groups]
  return [(title, found) for title, found in kept if found]


def _curves(run: reading.Run) -> list[tuple[str, str, Any]]:
  method = run.config['method']
  series = {method: run.history}
  if run.dense_history:
    series['dense'] = run.dense_history
  fixed = (
    f' The dotted line is step {run.freeze_step:,}, from which on masks are '
    'fixed.'
    if run.freeze_step
    else ''
  )
  curve = lambda title, field, what, **options: (
    field,
    f'{title}.{fixed}',
    charts.over_steps(
      series,
      field,
      what,
      f'{title} over the steps of training',
      freeze_step=run.freeze_step,
      **options,
    ),
  )
  return [
    curve(
      'Accuracy on the validation split',
      'validation_accuracy',
      'validation accuracy',
      is_share=True,
    ),
    (
      'density',
      f'Share of live connections.{fixed}',
      charts.over_steps(
        {method: run.history},
        'density',
        'density',
        'Density over the steps of training',
        is_share=True,
        logarithmic=True,
        freeze_step=run.freeze_step,
      ),
    ),
    curve('Training loss', 'loss', 'loss', logarithmic=True),
  ]


def _layers(run: reading.Run) -> list[tuple[str, str, Any]]:
  with_features = [x for x in run.layers if x.features]
  return [
    (
      'layer_density',
      'Live connections of each layer.',
      charts.bars(
        [
          {'layer': x.name, 'share': x.density, 'label': _live_of_all(x)}
          for x in run.layers
        ],
        'density',
        'Density of each layer',
      ),
    ),
    (
      'live_features',
      'Features (units, filters) with a live connection to their inputs.',
      charts.bars(
        [
          {
            'layer': x.name,
            'share': (x.live_features or 0) / (x.features or 1),
            'label': f'{x.live_features:,} of {x.features:,}',
          }
          for x in with_features
        ],
        'live features',
        'Live features of each layer',
      ),
    ),
  ]


def _inputs(run: reading.Run) -> list[tuple[str, str, Any]]:
  """The first layer, if it sees pixels."""
  if not run.layers:
    return []
  first, shape = run.layers[0], run.origin.get('image_shape', [])
  counts = first.mask.sum(axis=-1)
  if first.mask.ndim == 4:
    counts = counts.sum(axis=-1)
    caption = f'How many kernels of {first.name} keep each of their entries.'
  elif first.mask.ndim == 2 and shape and counts.size == np.prod(shape):
    counts = counts.reshape(shape).sum(axis=-1)
    caption = f'How many connections each input pixel keeps in {first.name}.'
  else:
    return []
  if counts.size > _MOST_CELLS:
    return []
  return [('inputs', caption, charts.heat_map(counts, 'live', caption))]


def _births(run: reading.Run) -> list[tuple[str, str, Any]]:
  """What the history of masks tells, if the run kept one."""
  if len(run.mask_bits) < 2:
    return []
  changes = mask_history.changes(run.mask_bits)
  densities = mask_history.layer_densities(
    run.mask_bits, [layer.mask.shape for layer in run.layers]
  )
  names = [layer.name for layer in run.layers]
  live = changes[-1]['live']
  returned = mask_history.returned(run.mask_bits)
  return [
    (
      'births',
      'Connections that came and went between two points. Of the '
      f'{live:,} that live at the end, {returned:,} had been pruned at an '
      'earlier point.',
      charts.births_and_deaths(
        changes, 'Births and deaths of connections over the steps of training'
      ),
    ),
    (
      'layer_densities',
      'Density of each layer over time.',
      charts.over_steps(
        {
          name: [
            {'step': step, 'density': values[index]}
            for step, values in densities.items()
          ]
          for index, name in enumerate(names)
        },
        'density',
        'density',
        'Density of each layer over the steps of training',
        is_share=True,
        logarithmic=True,
        freeze_step=run.freeze_step,
      ),
    ),
  ]


def _how(found: reading.Run | reading.Front) -> dict[str, Any]:
  """How to repeat it."""
  origin = dict(found.origin)
  versions: Mapping[str, str] = origin.pop('versions', {})
  command = origin.pop('command', None)
  origin.pop('image_shape', None)
  facts = {
    name: ', '.join(map(str, value)) if isinstance(value, list) else value
    for name, value in {**origin, **versions}.items()
  }
  return {
    'command': command,
    'facts': facts,
    'config': json.dumps(found.config, indent=2),
  }


def _mean_and_std(row: Mapping[str, Any]) -> str:
  return f'{result_store.plus_minus(row["accuracy"], row["accuracy_std"])} %'


def _live_of_all(layer: reading.Layer) -> str:
  return f'{layer.live:,} of {layer.mask.size:,}'


def main() -> None:
  """Writes the report and says where it is."""
  print(f'Wrote {write(flags.FLAGS.workdir)}')


if __name__ == '__main__':
  flags.DEFINE_string(
    'workdir', None, 'Of a finished run, sweep or comparison.', required=True
  )
  command_line.run(main)
