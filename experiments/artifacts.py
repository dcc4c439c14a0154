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
"""The files that a run leaves in its workdir.

| file | what is in it |
|---|---|
| `config.json` | the config |
| `metrics.jsonl` | one JSON object for each point of the run |
| `result.json` | test accuracy, density, seconds |
| `table.md` | the table of layers |
| `training.png` | loss, accuracy and density over steps |
| `layers.png` | density of each layer |
| `inputs.png` | connections that each input pixel keeps |
| `checkpoint/` | effective parameters and masks |

No times are in `metrics.jsonl`, so that equal runs write equal files.
`inputs.png` is of dense first layers alone, and `checkpoint/` is written by
`experiments.checkpointing`.
"""

from collections.abc import Mapping, Sequence
import json
import os
from typing import Any

import ml_collections

from experiments import plots


def write(
  workdir: str,
  *,
  config: ml_collections.ConfigDict,
  result: Mapping[str, Any],
  history: Sequence[Mapping[str, float]],
  table: str,
  masks: Any,
  image_shape: tuple[int, ...],
) -> None:
  """Writes all of them.

  Args:
    workdir: An existing folder.
    config: The config.
    result: What goes into `result.json`.
    history: One mapping for each point of the run.
    table: The table of layers.
    masks: The final masks.
    image_shape: (height, width, channels) of an input.
  """
  lines = ''.join(json.dumps(point) + '\n' for point in history)
  for name, text in {
    'config.json': config.to_json(indent=2),
    'result.json': json.dumps(result, indent=2),
    'metrics.jsonl': lines,
    'table.md': table + '\n',
  }.items():
    write_text(os.path.join(workdir, name), text)
  plots.training(os.path.join(workdir, 'training.png'), history)
  plots.layers(os.path.join(workdir, 'layers.png'), masks)
  plots.inputs(os.path.join(workdir, 'inputs.png'), masks, image_shape)


def write_text(path: str, text: str) -> None:
  """Replaces a file at once, so that it is never half-written.

  Args:
    path: The file.
    text: What it shall hold.
  """
  with open(path + '.tmp', 'w', encoding='utf-8') as file:
    file.write(text)
  os.replace(path + '.tmp', path)
