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
"""A finished run in other formats, from the command line."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import augmentation
from experiments import checkpointing
from experiments import engines
from experiments import export
from experiments import finished_run
from experiments import input_pipeline
from experiments import train
from experiments.configs import digits_mlp_scl
import scl_jax

safetensors_numpy = pytest.importorskip('safetensors.numpy')
pytest.importorskip('flatbuffers')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  config = digits_mlp_scl.get_config()
  config.epochs, config.dense_reference = 2, False
  folder = str(tmp_path_factory.mktemp('run'))
  train.train_and_evaluate(config, folder)
  return folder


def test_all_but_onnx(workdir):
  kinds = [kind for kind in export.FORMATS if kind != 'onnx']
  paths = export.export(workdir, kinds)
  params, masks, metadata = scl_jax.load(paths['sparse'])
  assert metadata['config']['dataset'] == 'digits'
  assert 0 < float(scl_jax.density(masks)) <= 1

  saved = checkpointing.restore(workdir, {'params': params, 'masks': masks})
  for leaf, other in zip(
    jax.tree.leaves((params, masks)),
    jax.tree.leaves((saved['params'], saved['masks'])),
    strict=True,
  ):
    np.testing.assert_array_equal(leaf, other)
  dense = safetensors_numpy.load_file(paths['dense'])
  np.testing.assert_array_equal(
    dense['Dense_0/kernel'], params['Dense_0']['kernel']
  )
  assert 'Dense_0.kernel.npz' in os.listdir(paths['csr'])

  with open(paths['stablehlo'], 'rb') as file:
    program = jax.export.deserialize(bytearray(file.read()))
  test = input_pipeline.load_dataset('digits').test
  logits = program.call(augmentation.scale(test.images))
  accuracy = np.mean(np.argmax(logits, -1) == test.labels)
  assert accuracy == pytest.approx(metadata['result']['test_accuracy'])


@pytest.mark.parametrize(
  'fields',
  [
    {
      'method': 'gradual_magnitude',
      'target_density': 0.2,
      'gradual_magnitude': {'begin_step': 2},
    },
    {'method': 'dense'},
  ],
)
def test_what_needs_the_length_of_a_run_is_loaded(tmp_path, fields):
  config = digits_mlp_scl.get_config()
  with config.unlocked():
    config.update({'epochs': 1, 'dense_reference': False, **fields})
  result = train.train_and_evaluate(config, str(tmp_path))
  run = finished_run.load(str(tmp_path), num_images=2)
  assert run.masks['Dense_0']['bias'] is None
  kernels = jax.tree.leaves(run.masks)
  live = sum(int(np.sum(np.asarray(mask) != 0)) for mask in kernels)
  assert [mask.shape for mask in kernels] == [(64, 300), (300, 100), (100, 10)]
  assert live / 50_200 == pytest.approx(result['density'], abs=1e-6)
  assert run.network(run.params, run.images).shape == (2, 10)


def _command_line(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.export', *arguments],
    capture_output=True,
    text=True,
    check=False,
  )


def test_command_line(workdir):
  process = _command_line(f'--workdir={workdir}', '--format=dense')
  assert process.returncode == 0, process.stderr
  path = os.path.join(workdir, 'network.safetensors')
  assert process.stdout == f'{path}: {os.path.getsize(path):,} bytes\n'


def test_bench(workdir, monkeypatch):
  pytest.importorskip('numba')
  monkeypatch.setattr(engines, 'NAMES', ('jax', 'scl_jax'))
  (row,) = export.bench(workdir, batch_sizes=(2,), rounds=1)
  assert set(row['engines']) == {'jax', 'scl_jax'}
  with open(os.path.join(workdir, 'bench.json'), encoding='utf-8') as file:
    assert json.load(file) == [row]
  with open(os.path.join(workdir, 'bench.md'), encoding='utf-8') as file:
    assert file.read() == engines.table([row]) + '\n'


def test_errors_are_one_line(tmp_path):
  process = _command_line(f'--workdir={tmp_path}')
  assert process.returncode != 0
  assert 'Traceback' not in process.stderr
  assert 'FileNotFoundError' in process.stderr


def test_unknown_formats(workdir):
  with pytest.raises(ValueError, match=r"must be of sparse, .* got \['zip'\]"):
    export.export(workdir, ['sparse', 'zip'])


def test_a_network_that_onnx_does_not_take(workdir, monkeypatch):
  def save_onnx(*_):
    raise RuntimeError('jax2onnx does not translate this network.')

  monkeypatch.setattr(scl_jax, 'save_onnx', save_onnx)
  with pytest.raises(ValueError, match='--format=onnx: jax2onnx does not'):
    export.export(workdir, ['onnx'])


def test_onnx(workdir):
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  path = export.export(workdir, ['onnx'])['onnx']
  session = onnxruntime.InferenceSession(path)
  (name,) = [node.name for node in session.get_inputs()]
  images = np.ones((3, 8, 8, 1), np.float32)
  assert session.run(None, {name: images})[0].shape == (3, 10)
