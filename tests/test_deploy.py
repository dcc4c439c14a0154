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
"""Tests of deploy.py: programs run in processes that know nothing of us."""

import subprocess
import sys
import textwrap

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scl_jax


class _Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(4, (3, 3), padding='SAME')(x))
    x = nn.max_pool(x, window_shape=(2, 2), strides=(2, 2))
    x = nn.relu(nn.Dense(16)(x.reshape(x.shape[0], -1)))
    return nn.Dense(3)(x)


def _network():
  model = _Net()
  inputs = jax.random.normal(jax.random.key(0), (5, 8, 8, 2))
  params = model.init(jax.random.key(1), inputs)['params']
  masks = jax.tree.map(
    lambda p: jax.random.bernoulli(jax.random.key(2), 0.3, p.shape), params
  )
  params = scl_jax.apply_masks(params, masks)
  return lambda params, x: model.apply({'params': params}, x), params, inputs


def _mlp():
  class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Dense(16)(x))
      return nn.Dense(3)(x)

  model = Mlp()
  inputs = jax.random.normal(jax.random.key(0), (5, 8))
  params = model.init(jax.random.key(1), inputs)['params']
  return lambda params, x: model.apply({'params': params}, x), params, inputs


def _run(code, folder):
  """In a fresh process, in another folder, without our package."""
  code = (
    'import sys\n'
    "sys.modules['scl_jax'] = sys.modules['flax'] = None\n"
    'import numpy as np\n' + textwrap.dedent(code)
  )
  subprocess.run(
    [sys.executable, '-W', 'error', '-c', code],
    check=True,
    cwd=folder,
    capture_output=True,
    text=True,
  )


def test_stablehlo_runs_elsewhere(tmp_path):
  pytest.importorskip('flatbuffers')
  fn, params, inputs = _network()
  scl_jax.save_stablehlo(tmp_path / 'network', fn, params, inputs)
  np.save(tmp_path / 'inputs', inputs)
  code = """
    import jax
    with open('network', 'rb') as file:
      program = jax.export.deserialize(bytearray(file.read()))
    assert set(program.platforms) == {'cpu', 'cuda', 'tpu'}
    inputs = np.load('inputs.npy')
    for batch in (1, 2, 5):
      np.save(f'outputs{batch}', program.call(inputs[:batch]))
  """
  _run(code, tmp_path)
  for batch in (1, 2, 5):
    np.testing.assert_allclose(
      np.load(tmp_path / f'outputs{batch}.npy'),
      fn(params, inputs[:batch]),
      rtol=1e-5,
      atol=1e-5,
    )


def test_stablehlo_of_several_inputs_from_shapes(tmp_path):
  pytest.importorskip('flatbuffers')

  def fn(params, x, index):
    return {'y': x * params['scale'], 'z': params['table'][index]}

  params = {'scale': jnp.bfloat16(2), 'table': jnp.arange(4.0)}
  scl_jax.save_stablehlo(
    tmp_path / 'network',
    fn,
    params,
    jax.ShapeDtypeStruct((1, 2), jnp.bfloat16),
    jax.ShapeDtypeStruct((1,), jnp.int32),
  )
  program = jax.export.deserialize(
    bytearray((tmp_path / 'network').read_bytes())
  )
  outputs = program.call(jnp.ones((3, 2), jnp.bfloat16), jnp.array([3, 0, 1]))
  assert outputs['y'].dtype == jnp.bfloat16
  np.testing.assert_array_equal(outputs['y'], 2 * np.ones((3, 2)))
  np.testing.assert_array_equal(outputs['z'], [3, 0, 1])


def _of_trees(params, inputs, pair):
  hidden = inputs['x'] @ params['w'] + inputs['more'][0]
  return {'y': hidden * pair[1], 'z': params['table'][pair[0]]}


def _trees(batch):
  """What NumPy makes without dtypes: float64 and int64."""
  rng = np.random.default_rng(0)
  params = {'w': jnp.asarray(rng.normal(size=(3, 2))), 'table': jnp.arange(4.0)}
  inputs = {'x': rng.normal(size=(batch, 3)), 'more': [np.ones((batch, 2))]}
  return params, inputs, (np.arange(batch), rng.normal(size=(batch, 1)))


@pytest.mark.parametrize('of_shapes', [False, True])
def test_stablehlo_of_pytrees(tmp_path, of_shapes):
  pytest.importorskip('flatbuffers')
  params, *inputs = _trees(4)
  shapes = jax.eval_shape(lambda x: x, inputs) if of_shapes else inputs
  scl_jax.save_stablehlo(tmp_path / 'network', _of_trees, params, *shapes)
  code = """
    import jax
    with open('network', 'rb') as file:
      program = jax.export.deserialize(bytearray(file.read()))
    inputs = np.load('inputs.npz').values()
    for batch in (1, 3, 4):
      x, more, index, scale = (array[:batch] for array in inputs)
      outputs = program.call({'more': [more], 'x': x}, (index, scale))
      assert list(outputs) == ['y', 'z']
      np.savez(f'outputs{batch}', **outputs)
  """
  tree, (index, scale) = inputs
  np.savez(tmp_path / 'inputs', tree['x'], tree['more'][0], index, scale)
  _run(code, tmp_path)
  for batch in (1, 3, 4):
    with np.load(tmp_path / f'outputs{batch}.npz') as outputs:
      _check_trees(outputs['y'], outputs['z'], params, inputs, batch)


@pytest.mark.parametrize('of_shapes', [False, True])
def test_onnx_of_pytrees(tmp_path, of_shapes):
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  params, *inputs = _trees(4)
  shapes = jax.eval_shape(lambda x: x, inputs) if of_shapes else inputs
  scl_jax.save_onnx(tmp_path / 'network', _of_trees, params, *shapes)
  session = onnxruntime.InferenceSession(tmp_path / 'network')
  tree, (index, scale) = inputs
  for batch in (1, 3, 4):
    feed = {
      'in_0/x': tree['x'][:batch].astype(np.float32),
      'in_0/more/0': tree['more'][0][:batch].astype(np.float32),
      'in_1/0': index[:batch].astype(np.int32),
      'in_1/1': scale[:batch].astype(np.float32),
    }
    _check_trees(*session.run(None, feed), params, inputs, batch)


def _check_trees(y, z, params, inputs, batch):
  tree, (index, scale) = inputs
  hidden = tree['x'] @ np.asarray(params['w'], np.float64) + tree['more'][0]
  assert y.shape == (batch, 2)
  np.testing.assert_allclose(y, (hidden * scale)[:batch], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(z, index[:batch])


def test_onnx_runs_elsewhere(tmp_path, capfd, caplog):
  pytest.importorskip('jax2onnx')
  pytest.importorskip('onnxruntime')
  fn, params, inputs = _network()
  scl_jax.save_onnx(tmp_path / 'network.onnx', fn, params, inputs)
  assert capfd.readouterr() == ('', '')
  assert not caplog.records
  jnp.cumsum(jnp.ones(3), 0)  # jax2onnx's own takes one positional argument
  np.save(tmp_path / 'inputs', inputs)
  code = """
    import onnxruntime
    session = onnxruntime.InferenceSession('network.onnx')
    (name,) = [node.name for node in session.get_inputs()]
    inputs = np.load('inputs.npy')
    for batch in (1, 2, 5):
      (outputs,) = session.run(None, {name: inputs[:batch]})
      np.save(f'outputs{batch}', outputs)
    assert 'jax' not in sys.modules
  """
  _run(code, tmp_path)
  for batch in (1, 2, 5):
    np.testing.assert_allclose(
      np.load(tmp_path / f'outputs{batch}.npy'),
      fn(params, inputs[:batch]),
      rtol=1e-5,
      atol=1e-5,
    )


@pytest.mark.parametrize('kind', ['dense', 'convolutional'])
def test_onnx_of_compact_networks(tmp_path, kind):
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  fn, params, inputs = _network() if kind == 'convolutional' else _mlp()
  dead = jnp.arange(16) % 3 == 0
  params['Dense_1']['kernel'] *= 1 - dead[:, None]
  small = scl_jax.compact(fn, params, None, inputs, drop_inputs=True)
  assert len(small.params['Dense_1']['kernel']) <= 10
  scl_jax.save_onnx(tmp_path / 'network', small.fn, small.params, inputs)
  session = onnxruntime.InferenceSession(tmp_path / 'network')
  name = session.get_inputs()[0].name
  for batch in (1, 3):
    (outputs,) = session.run(None, {name: np.asarray(inputs[:batch])})
    np.testing.assert_allclose(
      outputs, fn(params, inputs[:batch]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize('value', [0.0, -1.5])
def test_onnx_of_padded_features(tmp_path, value):
  """As where a residual network gets wider, or a border is corrected."""
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')

  def fn(params, x):
    wide = jax.lax.pad(x, x.dtype.type(value), [(0, 0, 0), (1, 2, 0)])
    return jnp.tanh(wide @ params)

  params = jax.random.normal(jax.random.key(0), (6, 4))
  inputs = jax.random.normal(jax.random.key(1), (5, 3))
  scl_jax.save_onnx(tmp_path / 'network', fn, params, inputs)
  session = onnxruntime.InferenceSession(tmp_path / 'network')
  name = session.get_inputs()[0].name
  for batch in (1, 3):
    (outputs,) = session.run(None, {name: np.asarray(inputs[:batch])})
    padded = np.pad(inputs[:batch], ((0, 0), (1, 2)), constant_values=value)
    np.testing.assert_allclose(
      outputs, np.tanh(padded @ np.asarray(params)), rtol=1e-5, atol=1e-5
    )


def test_onnx_of_transposed_convolutions(tmp_path):
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')

  def fn(params, x):
    return jax.lax.conv_general_dilated(
      x, params, (1, 2), [(1, 1), (2, 1)], lhs_dilation=(2, 3),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip

  params = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
  inputs = jax.random.normal(jax.random.key(1), (3, 4, 5, 2))
  scl_jax.save_onnx(tmp_path / 'network', fn, params, inputs)
  session = onnxruntime.InferenceSession(tmp_path / 'network')
  for batch in (1, 3):
    (outputs,) = session.run(None, {'in_0': np.asarray(inputs[:batch])})
    wanted = fn(params, inputs[:batch])
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-5)


def _translate_wrongly(monkeypatch, jax2onnx):
  translate = jax2onnx.to_onnx
  monkeypatch.setattr(
    jax2onnx,
    'to_onnx',
    lambda network, *args, **kwargs: translate(
      lambda x: network(x) * 1.001, *args, **kwargs
    ),
  )


def test_a_wrong_translation_is_not_written(tmp_path, monkeypatch):
  jax2onnx = pytest.importorskip('jax2onnx')
  pytest.importorskip('onnxruntime')
  fn, params, inputs = _network()
  _translate_wrongly(monkeypatch, jax2onnx)
  with pytest.raises(RuntimeError, match=r'does not translate.* others\.'):
    scl_jax.save_onnx(tmp_path / 'network.onnx', fn, params, inputs)
  assert not list(tmp_path.iterdir())


def test_an_empty_batch_compares_nothing(tmp_path):
  pytest.importorskip('jax2onnx')
  pytest.importorskip('onnxruntime')
  with pytest.raises(ValueError, match='at least one example'):
    scl_jax.save_onnx(
      tmp_path / 'n.onnx',
      lambda p, x: x @ p,
      jnp.ones((3, 2)),
      jnp.ones((0, 3)),
    )
  assert not list(tmp_path.iterdir())


def test_short_floats_are_named_as_a_likely_reason(tmp_path, monkeypatch):
  jax2onnx = pytest.importorskip('jax2onnx')
  pytest.importorskip('onnxruntime')

  def fail(*_, **__):
    raise NotImplementedError('no kernel')

  monkeypatch.setattr(jax2onnx, 'to_onnx', fail)
  for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
    fn = lambda params, x, dtype=dtype: x.astype(dtype) @ params
    params = jnp.ones((3, 2), dtype)
    with pytest.raises(RuntimeError, match='no kernel') as error:
      scl_jax.save_onnx(tmp_path / 'n.onnx', fn, params, jnp.ones((2, 3)))
    named = f'computes in {jnp.dtype(dtype)}' in str(error.value)
    assert named == (dtype != jnp.float32)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_hide_no_others(
  tmp_path, monkeypatch, value
):
  jax2onnx = pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  fn = lambda params, x: jnp.where(x < 0, jnp.float32(value), x * params)
  inputs = np.array([[-1.0, 2.0], [3.0, -4.0]], np.float32)
  arguments = (tmp_path / 'network', fn, jnp.float32(2), inputs)
  scl_jax.save_onnx(*arguments)
  session = onnxruntime.InferenceSession(tmp_path / 'network')
  (outputs,) = session.run(None, {'in_0': inputs})
  np.testing.assert_array_equal(outputs, [[value, 4], [6, value]])

  _translate_wrongly(monkeypatch, jax2onnx)
  with pytest.raises(RuntimeError, match=r'does not translate.* others\.'):
    scl_jax.save_onnx(*arguments)


def test_what_jax2onnx_cannot_translate(tmp_path):
  pytest.importorskip('jax2onnx')
  pytest.importorskip('onnxruntime')

  def fn(params, x):
    return jax.pure_callback(np.sin, x, x)

  with pytest.raises(RuntimeError, match='does not translate'):
    scl_jax.save_onnx(tmp_path / 'network.onnx', fn, {}, jnp.ones((2, 3)))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'inputs',
  [
    (),
    (1.0,),
    ([1.0, 2.0],),
    (np.ones((2, 3)), np.ones((3, 3))),
    ({'a': np.ones((2, 3)), 'b': np.ones((3, 3))},),
    ({'a': np.ones((2, 3)), 'b': 1.0},),
  ],
  ids=['none', 'scalar', 'scalars', 'batches', 'batches-of-tree', 'no-batch'],
)
@pytest.mark.parametrize('save', [scl_jax.save_stablehlo, scl_jax.save_onnx])
def test_inputs_need_a_batch(tmp_path, save, inputs):
  with pytest.raises(ValueError, match=r'shapes \[batch, \.\.\.\]'):
    save(tmp_path / 'network', lambda params, *x: x, {}, *inputs)
