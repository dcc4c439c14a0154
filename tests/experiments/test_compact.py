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
"""Tests of compact.py, on a run with few steps."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import checkpointing
from experiments import compact
from experiments import input_pipeline
from experiments import models
from experiments.configs import digits_mlp_scl
import scl_jax


def write_run(workdir):
  """What experiments.main would leave, of an untrained network."""
  config = digits_mlp_scl.get_config()
  for name, text in {'config': config.to_json(), 'result': '{}'}.items():
    with open(os.path.join(workdir, f'{name}.json'), 'w') as file:
      file.write(text)
  dataset = input_pipeline.load_dataset('digits', validation_size=0)
  model = models.create_model(config.model, dataset.num_classes)
  images = jnp.zeros((1, *dataset.test.images.shape[1:]))
  params = model.init(jax.random.key(0), images)['params']
  masks = jax.tree.map(
    lambda p: (
      jnp.floor(jax.random.uniform(jax.random.key(1), p.shape) + 0.02)
      if p.ndim > 1
      else None
    ),
    params,
  )
  params = scl_jax.apply_masks(params, masks)
  checkpointing.save(
    workdir, {'params': params, 'masks': masks, 'model_state': {}}
  )


def test_a_run_is_compacted(tmp_path):
  write_run(tmp_path)
  small, result = compact.compact_run(
    str(tmp_path), batch_sizes=(1, 4), rounds=2
  )
  folder = os.path.join(tmp_path, 'compact')
  written = checkpointing.restore(folder, {'params': small.params})
  jax.tree.map(np.testing.assert_array_equal, written['params'], small.params)
  with open(os.path.join(folder, 'result.json'), encoding='utf-8') as file:
    assert json.load(file)['params_after'] == result['params_after']
  assert result['params_after'] < result['params_before']
  assert result['difference64'] < 1e-10
  text = compact.table(result)
  assert len(text.splitlines()) == 6
  assert 'zeros alone give' in text
  assert all(row['compact_ms'] > 0 for row in result['latency'])


def test_a_split_of_fewer_images_than_a_batch(tmp_path, monkeypatch):
  """MACs are of one example, and what is called a batch of 32 is one."""
  write_run(tmp_path)
  whole = input_pipeline.load_dataset('digits')
  few = whole._replace(test=whole.test.take(slice(20)))
  monkeypatch.setattr(input_pipeline, 'from_config', lambda _: few)
  timed = []

  def latencies(networks, images, rounds):
    del networks, rounds
    timed.append(len(images))
    return {}

  monkeypatch.setattr(compact, 'latencies', latencies)
  _, result = compact.compact_run(str(tmp_path), batch_sizes=(1, 32, 300))
  assert timed == [1, 32, 300]
  assert result['macs_before'] == 64 * 300 + 300 * 100 + 100 * 10


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  """It is said before anything is compacted, and no --resume is advised."""
  write_run(tmp_path)

  class Full:
    def __init__(self):
      raise RuntimeError('no space')

  with monkeypatch.context() as patch:
    patch.setattr(checkpointing.ocp, 'StandardCheckpointer', Full)
    with pytest.raises(OSError, match=r'write there; then compact .*no space'):
      compact.compact_run(str(tmp_path), batch_sizes=(1,), rounds=1)
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
  monkeypatch.setattr(scl_jax, 'compact', None)
  with pytest.raises(PermissionError, match=r'--workdir: .* cannot be written'):
    compact.compact_run(str(tmp_path))


def test_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='train first'):
    compact.compact_run(str(tmp_path))
