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
r"""The command line that takes a finished run away.

For example:

    python -m experiments.export --workdir=workdirs/digits --format=sparse

It writes into the workdir:

| format | file | what it is |
|---|---|---|
| `sparse` | `network.sparse.safetensors` | live values and coded masks |
| `dense` | `network.safetensors` | all arrays, by their paths |
| `csr` | `network.csr/<path>.npz` | pruned kernels for SciPy |
| `stablehlo` | `network.stablehlo` | a program for `jax.export` |
| `onnx` | `network.onnx` | a program for ONNX Runtime |

The programs map images [batch, height, width, channels] in [0, 1] to logits.
"""

from collections.abc import Mapping, Sequence
import json
import os
import types

from absl import app
from absl import flags
from absl import logging
import jax
import jax.numpy as jnp
import ml_collections
import optax

from experiments import checkpointing
from experiments import input_pipeline
from experiments import models
from experiments import train
import scl_jax

FORMATS: Mapping[str, str] = types.MappingProxyType(
  {
    'sparse': 'network.sparse.safetensors',
    'dense': 'network.safetensors',
    'csr': 'network.csr',
    'stablehlo': 'network.stablehlo',
    'onnx': 'network.onnx',
  }
)

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Of a finished run of experiments.main.', required=True
)
_FORMAT = flags.DEFINE_multi_enum(
  'format',
  ['sparse'],
  list(FORMATS),
  'What to write; may be given several times.',
)


def export(workdir: str, formats: Sequence[str]) -> dict[str, str]:
  """Writes the network of a finished run in other formats.

  Args:
    workdir: The folder in which `train_and_evaluate` left its results.
    formats: Some of `FORMATS`.

  Returns:
    For each format the path of its file, or of its folder for `'csr'`.

  Raises:
    FileNotFoundError: If there is no finished run.
    ValueError: If a format is unknown.
  """
  unknown = set(formats) - set(FORMATS)
  if unknown:
    raise ValueError(
      f'formats must be of {", ".join(FORMATS)}; got {sorted(unknown)}.'
    )
  config = ml_collections.ConfigDict(_read_json(workdir, 'config'))
  metadata = {
    'config': config.to_dict(),
    'result': _read_json(workdir, 'result'),
  }
  dataset = input_pipeline.load_dataset(
    config.dataset, image_size=config.get('image_size')
  )
  model = models.create_model(config.model, dataset.num_classes)
  images = train.normalize(jnp.asarray(dataset.test.images[:8]))
  arrays = checkpointing.restore(workdir, _like(config, model, images))
  params, masks = arrays['params'], arrays['masks']

  def network(params, images):
    return model.apply({'params': params}, images)

  paths = {kind: os.path.join(workdir, FORMATS[kind]) for kind in formats}
  for kind, path in paths.items():
    if kind == 'sparse':
      scl_jax.save(path, params, masks, metadata)
    elif kind == 'dense':
      scl_jax.save_dense(path, params)
    elif kind == 'csr':
      scl_jax.save_csr(path, params, masks)
    elif kind == 'stablehlo':
      scl_jax.save_stablehlo(path, network, params, images)
    else:
      scl_jax.save_onnx(path, network, params, images)
  return paths


def main(argv: list[str]) -> None:
  """Writes the formats and prints their sizes."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}')
  try:
    paths = export(_WORKDIR.value, _FORMAT.value)
  except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
    raise SystemExit(f'{type(error).__name__}: {error}') from error
  for path in paths.values():
    print(f'{path}: {_size(path):,} bytes')


def _read_json(workdir, name):
  with open(os.path.join(workdir, f'{name}.json'), encoding='utf-8') as file:
    return json.load(file)


def _like(config, model, images):
  """The shapes of what a run of this config keeps, without any computation."""

  def make():
    params = model.init(jax.random.key(0), images)['params']
    rule = train.rule_of(config, num_steps=1)
    # Which leaves have masks, the rule knows for itself.
    tx = (
      optax.identity()
      if rule is None
      else scl_jax.sparsify(optax.identity(), rule)
    )
    state = train.TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    return {'params': params, 'masks': train.get_masks(config, state)}

  return jax.eval_shape(make)


def _size(path):
  if os.path.isfile(path):
    return os.path.getsize(path)
  return sum(os.path.getsize(entry.path) for entry in os.scandir(path))


if __name__ == '__main__':
  # Orbax tells at length what it does, on the level INFO.
  flags.FLAGS.set_default('verbosity', logging.WARNING)
  app.run(main)
