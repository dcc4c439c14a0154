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
"""Every contender of the comparison, and how results are shown."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import comparison_report
from experiments import contenders
from experiments import input_pipeline
from experiments import models
from experiments import train
from experiments.configs import mnist_lenet300_compare
import scl_jax
from scl_jax import tree as tree_lib


def short_config():
  config = mnist_lenet300_compare.get_config()
  config.dataset, config.batch_size, config.epochs = 'digits', 64, 1
  config.nnrelief.iterations, config.nnrelief.examples = 1, 50
  return config


@pytest.fixture(scope='module')
def dataset():
  return input_pipeline.load_dataset('digits', validation_size=1000)


@pytest.fixture
def fits(monkeypatch):
  """The (config, run) of each training."""
  runs = []
  fit = train.fit

  def spy(config, *args, **kwargs):
    run = fit(config, *args, **kwargs)
    runs.append((config, run))
    return run

  monkeypatch.setattr(train, 'fit', spy)
  return runs


@pytest.mark.parametrize('name', contenders.CONTENDERS)
def test_contender(name, dataset, fits):
  contender = contenders.CONTENDERS[name]
  strengths = {contender.strength: 0.02} if contender.strength else {}
  config = contenders.configure(short_config(), name, 0.1, 3, strengths)
  if contender.kind == 'nnrelief':
    config.epochs = 2
  budget = config.epochs
  model = models.create_model(config.model, dataset.num_classes)
  trained = contenders.run(config, name, model, dataset)

  # A method's own retraining counts; the control takes SCL's masks, given.
  assert config.epochs == budget
  assert sum(c.epochs for c, _ in fits) == budget * (
    2 if contender.kind == 'shuffled' else 1
  )
  assert {c.seed for c, _ in fits} == {3}
  assert not any('validation_accuracy' in p for _, r in fits for p in r.history)
  rows = list(tree_lib.zip_leaves(trained.params, trained.masks))
  assert [path for path, _, mask in rows if mask is not None] == [
    f'Dense_{i}/kernel' for i in range(3)
  ]
  for _, param, mask in rows:
    assert np.all(np.isfinite(param))
    if mask is not None:
      assert set(np.unique(mask)) <= {0, 1}
      np.testing.assert_array_equal(param * (1 - mask), 0 * param)
  density = float(scl_jax.density(trained.masks))
  if contender.strength is None:
    assert density == pytest.approx(0.1, abs=1e-4)
  assert 0 < density <= 1
  assert density * 0.99 <= trained.mean_density <= 1
  assert trained.seconds > 0
  if contender.kind == 'shuffled':
    learned = scl_jax.get_masks(fits[0][1].state.opt_state)
    for _, old, new in tree_lib.zip_leaves(learned, trained.masks):
      assert old is None or (old.sum() == new.sum() and np.any(old != new))


def test_nnrelief_needs_a_budget_that_can_be_shared(dataset):
  config = contenders.configure(short_config(), 'nnrelief', 0.1, 0, {})
  config.epochs = 3
  model = models.create_model(config.model, dataset.num_classes)
  with pytest.raises(ValueError, match=r'multiple of the 2 trainings.*got 3'):
    contenders.run(config, 'nnrelief', model, dataset)


class TestConfigure:
  def test_settings_of_the_run_come_last(self):
    shared = short_config()
    before = shared.to_json()
    settings = {'learning_rate': 0.1, 'snip.num_batches': 7}
    config = contenders.configure(shared, 'snip', 0.2, 5, settings)
    assert (config.method, config.seed, config.target_density) == (
      'snip', 5, 0.2,
    )  # fmt: skip
    assert (config.learning_rate, config.snip.num_batches) == (0.1, 7)
    assert shared.to_json() == before

  @pytest.mark.parametrize('path', ['lerning_rate', 'rgil.update_every'])
  def test_a_setting_of_nothing(self, path):
    with pytest.raises(ValueError, match=f"'{path}' of 'rigl' is of no field"):
      contenders.configure(short_config(), 'rigl', 0.2, 5, {path: 1})

  def test_unknown(self):
    with pytest.raises(ValueError, match="no contender 'magic'"):
      contenders.configure(short_config(), 'magic', 0.2, 5, {})


def test_shuffle_keeps_the_number_in_each_leaf():
  rng = np.random.default_rng(0)
  masks = {
    'a': jnp.asarray(rng.random((30, 40)) < 0.3, jnp.float32),
    'b': None,
    'c': jnp.asarray(rng.random((3, 3, 4, 5)) < 0.7, jnp.float32),
  }
  key = jax.random.key(1)
  shuffled = contenders.shuffle(masks, key)
  assert shuffled['b'] is None
  for name in ('a', 'c'):
    assert shuffled[name].shape == masks[name].shape
    assert shuffled[name].sum() == masks[name].sum()
    assert np.any(shuffled[name] != masks[name])
  jax.tree.map(np.testing.assert_array_equal, shuffled,
               contenders.shuffle(masks, key))  # fmt: skip


def point(method, asked, seed, accuracy, density=None):
  return {
    'method': method,
    'asked': asked,
    'seed': seed,
    'settings': {},
    'accuracy': accuracy,
    'density': asked if density is None else density,
    'live': 1,
    'compression': 10.0 + seed,
    'speedup': 4.0,
    'training_cost': 0.25,
    'seconds': 7.0,
  }


REPORT = {
  'points': [
    *(point('scl', 0.05, s, a) for s, a in enumerate((0.95, 0.96, 0.97))),
    *(point('dst', 0.05, s, 0.9, 0.06) for s in range(2)),
    point('dst', 0.01, 0, 0.85, 0.0102),
  ]
}


class TestReport:
  def test_means(self):
    rows = comparison_report.summarise(REPORT)
    assert list(rows) == [('scl', 0.05), ('dst', 0.05), ('dst', 0.01)]
    scl = rows['scl', 0.05]
    assert scl['accuracy'] == pytest.approx(96)
    assert scl['accuracy_std'] == pytest.approx(1)  # of a sample
    assert scl['density'] == pytest.approx(5)
    assert scl['compression'] == pytest.approx(11)
    assert np.isnan(rows['dst', 0.01]['accuracy_std'])

  def test_tables(self):
    lines = comparison_report.tables(REPORT).splitlines()
    assert lines[:6] == [
      '| method | 5 % | 1 % |',
      '|---|--:|--:|',
      '| SCL | **96.00 ± 1.00** |  |',
      '| DST | 90.00 ± 0.00 (at 6 %) | **85.00** |',
      '',
      '| method | asked | reached | compression ratio | theoretical speed-up '
      '| training cost | s/run | seeds |',
    ]
    assert lines[7] == '| SCL | 5 % | 5 % | 11.0 | 4.0 | 0.25 | 7 | 3 |'

  def test_files(self, tmp_path):
    comparison_report.write(str(tmp_path), REPORT)
    assert (tmp_path / 'table.md').read_text() == comparison_report.tables(
      REPORT
    )
    assert (tmp_path / 'front.png').read_bytes().startswith(b'\x89PNG')
