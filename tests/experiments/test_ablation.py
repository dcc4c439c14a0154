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
"""What a report of the ablation may be added to."""

import json
import os

import pytest

from experiments import ablation
from experiments import input_pipeline


def test_runs_of_another_length_are_not_mixed(tmp_path):
  path = tmp_path / 'results.json'
  report = ablation.load(str(path), 6)
  path.write_text(json.dumps(report))
  assert ablation.load(str(path), 6) == report
  with pytest.raises(ValueError, match=r'runs of 6 epochs.*give --epochs=6'):
    ablation.ablate(str(tmp_path), seeds=1, epochs=12)


def test_a_folder_is_made_or_refused_before_any_training(tmp_path, monkeypatch):
  monkeypatch.setattr(input_pipeline, 'load_dataset', None)
  (tmp_path / 'file').touch()
  with pytest.raises(NotADirectoryError):
    ablation.ablate(str(tmp_path / 'file' / 'run'), seeds=1, epochs=1)
  monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write anywhere
  with pytest.raises(PermissionError, match=r'--workdir: .* cannot be written'):
    ablation.ablate(str(tmp_path), seeds=1, epochs=1)


def test_what_was_found_is_said(tmp_path, monkeypatch):
  monkeypatch.setattr(input_pipeline, 'load_dataset', lambda *_, **__: None)
  monkeypatch.setattr(
    ablation,
    'measure',
    lambda _, arguments, seed, epochs: {
      'seed': seed,
      'accuracy': 0.5,
      'density': 0.1,
      'findings': ['It is lost.'] * (arguments.get('estimator') == 'relu'),
    },
  )
  last = ablation.ablate(str(tmp_path), seeds=1, epochs=1).splitlines()[-2:]
  assert all('relu' in line and 'It is lost.' in line for line in last)


def test_bad_flags(tmp_path):
  with pytest.raises(ValueError, match='--seeds must be a whole number >= 1'):
    ablation.ablate(str(tmp_path), seeds=0, epochs=1)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('result.json', r'holds a run of experiments\.main'),
    (
      'results.json',
      r'holds results of .*, not of experiments\.ablation: give another',
    ),
  ],
)
def test_the_folder_of_something_else(tmp_path, monkeypatch, name, message):
  (tmp_path / name).write_text('{"config": {}, "points": []}')
  monkeypatch.setattr(ablation, 'measure', None)  # nothing is trained
  monkeypatch.setattr(ablation.input_pipeline, 'load_dataset', None)
  with pytest.raises(ValueError, match=message):
    ablation.ablate(str(tmp_path), seeds=1, epochs=1)
  assert [path.name for path in tmp_path.iterdir()] == [name]


def test_committed_results_are_added_to():
  """Although they are older than what a report says today."""
  path = 'experiments/results/mnist_lenet300_ablation/results.json'
  report = ablation.load(path, 6)
  assert report['density 0.01'].keys() == ablation.variants().keys()
