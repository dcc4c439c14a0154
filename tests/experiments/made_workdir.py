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
"""The workdir of a run that nobody trained, for tests of what reads it."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np

from experiments import artifacts
from experiments import checkpointing
from experiments import mask_history
from experiments.configs import digits_mlp_scl
import scl_jax

SHAPES = {'Dense_0': (64, 30), 'Dense_1': (30, 10)}


def write(workdir: pathlib.Path, *, points: int = 4) -> list[dict]:
  """A network of two layers whose masks change between points.

  Args:
    workdir: Where it goes.
    points: How many there are after step 0.

  Returns:
    The masks at each point.
  """
  config = digits_mlp_scl.get_config()
  config.update(epochs=points, target_density=0.1, mask_history=True)
  artifacts.start(str(workdir), config, resume=False)
  rng = np.random.default_rng(0)
  masks, history = [], []
  for index in range(points + 1):
    density = 1.0 if index == 0 else 0.5 / index
    masks.append(
      {
        name: {
          'kernel': jnp.asarray(rng.random(shape) < density, jnp.float32),
          'bias': None,
        }
        for name, shape in SHAPES.items()
      }
    )
    mask_history.write(str(workdir), 19 * index, masks[-1])
    history.append(
      {
        'step': 19 * index,
        'epoch': index,
        'loss': 1 / (1 + index),
        'density': float(scl_jax.density(masks[-1])),
        'validation_accuracy': 0.9 + 0.02 * index,
      }
    )
  checkpointing.save(str(workdir), {'params': {}, 'masks': masks[-1]})
  artifacts.write(
    str(workdir),
    config=config,
    result={
      'seed': 0,
      'test_accuracy': 0.97,
      'dense_test_accuracy': 0.98,
      'seconds': 1.5,
      'findings': [],
      'density': history[-1]['density'],
    },
    history=history[1:],
    table='| layer | live |\n|---|--:|\n| Dense_0/kernel | 5 |',
    masks=masks[-1],
    image_shape=(8, 8, 1),
  )
  dense = workdir / 'dense'
  dense.mkdir()
  (dense / 'metrics.jsonl').write_text(
    ''.join(json.dumps(point) + '\n' for point in history[1:])
  )
  return masks
