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
import numpy as np
import pytest

from experiments import checkpointing
from experiments import compact
from experiments import train
from experiments.configs import digits_mlp_scl


def test_a_run_is_compacted(tmp_path):
  config = digits_mlp_scl.get_config()
  config.epochs, config.points_per_epoch = 1, 1
  config.dense_reference = False
  config.target_density = 0.05
  train.train_and_evaluate(config, str(tmp_path))
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


def test_no_run(tmp_path):
  with pytest.raises(FileNotFoundError, match='train first'):
    compact.compact_run(str(tmp_path))
