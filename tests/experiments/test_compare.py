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
"""The comparison of methods: its protocol, its search, its numbers."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import compare
from experiments import contenders
from experiments import input_pipeline
from experiments import models
from experiments.configs import mnist_lenet300_compare


def short_config(**plan):
  config = mnist_lenet300_compare.get_config()
  config.dataset = 'digits'
  config.epochs, config.batch_size = 2, 64
  only_rate = ({'learning_rate': 3e-3},)
  config.compare.update(
    methods=('snip', 'random'),
    densities=(0.2,),
    tuning_densities=(0.2,),
    seeds=1,
    tuning_examples=1000,
    search_trials=1,
    trials={name: only_rate for name in config.compare.trials},
  )
  config.compare.update(plan)
  return config


def with_trial(settings):
  """A plan whose second method tries these."""
  rate = {'learning_rate': 3e-3}
  return {
    'methods': ('random', 'snip'),
    'trials': {'random': (rate,), 'snip': (settings,)},
  }


def saved(folder):
  return json.loads((folder / 'results.json').read_text())


def without_times(entries):
  return [{**entry, 'seconds': 0} for entry in entries]


def test_runs_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
  config = short_config(methods=('random',))
  report = compare.compare(config, str(tmp_path))
  assert report == saved(tmp_path)
  names = [[e['method'] for e in report[kind]] for kind in ('trials', 'points')]
  assert names == [['random']] * 2
  assert (tmp_path / 'table.md').read_text().count('\n') == 2 + 1 + 1 + 2 + 1
  assert (tmp_path / 'front.png').read_bytes().startswith(b'\x89PNG')

  # 64 * 300 + 300 * 100 + 100 * 10 weights and 410 biases; in a perceptron a
  # connection is a MAC.
  random = report['points'][0]
  assert random['live'] == 10_040
  assert random['density'] == pytest.approx(0.2)
  assert random['compression'] == pytest.approx(50_610 / (410 + 10_040))
  assert random['speedup'] == pytest.approx(5)
  assert random['training_cost'] == pytest.approx(0.2)
  # Trained on all of the training split, so better than the trial.
  assert random['accuracy'] > report['trials'][0]['accuracy'] > 0.2

  # Without its point it runs that again, alike, and nothing else.
  kept = {**report, 'points': []}
  (tmp_path / 'results.json').write_text(json.dumps(kept))
  measure, asked = compare.measure, []

  def spy(*args):
    asked.append(args[2:])
    return measure(*args)

  monkeypatch.setattr(compare, 'measure', spy)
  again = compare.compare(config, str(tmp_path))
  assert asked == [('random', 0.2, 0, {'learning_rate': 3e-3})]
  assert without_times(again['points']) == without_times(report['points'])
  # More seeds are more runs of the same comparison.
  monkeypatch.setattr(compare, 'measure', lambda *args: stub(*args[2:]))
  config.compare.seeds = 2
  assert len(compare.compare(config, str(tmp_path))['points']) == 2
  config.compare.densities = (0.1,)
  with pytest.raises(ValueError, match=r"differ: \['compare'\]"):
    compare.compare(config, str(tmp_path))


def stub(name, density, seed, settings, reached=None, accuracy=0.5):
  """What `measure` returns."""
  return {
    'method': name,
    'asked': density,
    'seed': seed,
    'settings': dict(settings),
    'accuracy': accuracy,
    'density': density if reached is None else reached,
    'compression': 1.0,
    'speedup': 1.0,
    'training_cost': 1.0,
    'seconds': 1.0,
  }


def smooth(strength):
  return min(1.0, 3e-5 / strength)


def cliff(strength):
  """As SCL's: dense, then all at once half sparse."""
  return 0.9 if strength < 2e-4 else 0.07 * (2e-4 / strength) ** 0.5


class TestSearch:
  """Of the strength of a method that cannot be asked for a density."""

  def config(self):
    return short_config(
      methods=('dst',), densities=(0.1, 0.05, 0.02), search_trials=6
    )

  @pytest.fixture
  def measured(self, monkeypatch):
    """Strengths that were tried; `law` and `stop` say what becomes of them."""
    strengths = []

    def measure(config, dataset, name, density, seed, settings):
      del config
      (strength,) = settings.values()
      if dataset.validation.num_examples:
        if len(strengths) == measured.stop:
          raise KeyboardInterrupt
        strengths.append(strength)
      return stub(name, density, seed, settings, measured.law(strength))

    class measured:
      tried = strengths
      law = staticmethod(smooth)
      stop = math.inf

    monkeypatch.setattr(compare, 'measure', measure)
    monkeypatch.setattr(compare.comparison_report, 'write', lambda *_: None)
    return measured

  def test_finds_each_density(self, tmp_path, measured):
    report = compare.compare(self.config(), str(tmp_path))
    assert len(measured.tried) <= 3 * 6
    for point in report['points']:
      assert point['density'] == pytest.approx(point['asked'], rel=0.03)
    low, high = contenders.CONTENDERS['dst'].strengths
    assert all(low < strength < high for strength in measured.tried)

  def test_keeps_to_the_number_of_trials(self, tmp_path, measured):
    measured.law = cliff  # 0.1 is not to be had
    report = compare.compare(self.config(), str(tmp_path))
    at = [t['asked'] for t in report['trials']]
    assert at.count(0.1) == 6
    assert max(at.count(density) for density in (0.05, 0.02)) <= 6
    assert report['points'][0]['density'] == pytest.approx(0.07, rel=0.1)

  @pytest.mark.parametrize('law', [smooth, cliff])
  def test_goes_on_as_if_never_stopped(self, tmp_path, measured, law):
    measured.law = law
    report = compare.compare(self.config(), str(tmp_path / 'whole'))
    number = len(measured.tried)
    for stop in range(number):
      measured.tried.clear()
      measured.stop = stop
      folder = tmp_path / str(stop)
      with pytest.raises(KeyboardInterrupt):
        compare.compare(self.config(), str(folder))
      measured.stop = math.inf
      compare.compare(self.config(), str(folder))
      assert saved(folder) == report
      assert len(measured.tried) == number

  def test_a_finished_search_is_finished(self, tmp_path, measured):
    measured.law = cliff
    compare.compare(self.config(), str(tmp_path))
    measured.stop = len(measured.tried)
    compare.compare(self.config(), str(tmp_path))


@pytest.mark.parametrize(
  ('plan', 'message'),
  [
    ({'methods': ('snip', 'magic')}, "no contender 'magic'; there are: scl, "),
    ({'methods': ('snip', 'dst'), 'search_trials': 2}, "'snip': 1, 'dst': 2"),
    ({'methods': ('snip',), 'trials': {'snip': ()}}, 'at least 1'),
    ({'methods': ('shuffled', 'snip')}, "but not 'scl'"),
    ({'methods': ()}, 'methods must not be empty'),
    ({'densities': ()}, r'compare\.densities must not be empty'),
    ({'densities': (0.5, 0.5)}, r'compare\.densities .*got 0.5 twice'),
    # They would be found out after all trials, or never.
    ({'densities': (0.5, 0)}, r'compare\.densities must be in \(0, 1\], got 0'),
    ({'densities': (5, 2)}, r'compare\.densities must be in \(0, 1\], got 5'),
    ({'tuning_densities': (-0.1,)}, r'tuning_densities must be .*got -0\.1'),
    ({'methods': ('snip', 'snip')}, r"compare\.methods .*got 'snip' twice"),
    ({'seeds': 0}, 'seeds must be >= 1, got 0'),
    # The trials would be judged on the test split.
    ({'tuning_examples': 0}, 'tuning_examples must be >= 1, got 0'),
  ],
)
def test_bad_plans(tmp_path, plan, message):
  with pytest.raises(ValueError, match=message):
    compare.compare(short_config(**plan), str(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('plan', 'message'),
  [
    # 2 epochs cannot be shared by the 4 trainings.
    ({'methods': ('snip', 'nnrelief')}, "'nnrelief' with .* multiple of the 4"),
    (with_trial({'snip.nonsense': 3}), "'snip' .* argument 'nonsense'"),
    (with_trial({'epochs': 'many'}), "'epochs' of 'snip' does not fit"),
    (with_trial({'epochs': 0}), r'config\.epochs must be >= 1, got 0'),
    (with_trial({'optimizer': 'magic'}), r"config\.optimizer .*got 'magic'"),
    (with_trial({'batch_size': 500}), r'config\.batch_size .*, 437; got 500'),
    (with_trial({'model': 'magic'}), "got 'magic'"),
    ({'densities': (0.2, 'few')}, r"compare\.densities .*\(0.2, 'few'\)"),
    ({'tuning_densities': (None,)}, r'compare\.tuning_densities .*None'),
  ],
)
def test_what_cannot_be_trained_is_told_before_training(
  tmp_path, monkeypatch, plan, message
):
  monkeypatch.setattr(compare, 'measure', lambda *_: pytest.fail('trained'))
  with pytest.raises(ValueError, match=message):
    compare.compare(short_config(**plan), str(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'name', ['compare', 'compare.search_trials', 'nnrelief']
)
def test_a_config_of_something_else(tmp_path, name):
  config = short_config(methods=('snip', 'nnrelief'))
  *parents, field = name.split('.')
  with config.unlocked():
    del (config[parents[0]] if parents else config)[field]
  with pytest.raises(ValueError, match=rf'config\.{name} is .*_compare\.py'):
    compare.compare(config, str(tmp_path))


def test_a_trial_with_a_tuple_is_run_once(tmp_path, monkeypatch):
  """JSON makes a list of it."""
  monkeypatch.setattr(compare, 'measure', lambda *args: stub(*args[2:]))
  monkeypatch.setattr(compare.comparison_report, 'write', lambda *_: None)
  config = short_config(**with_trial({'schedule_boundaries': (0.3, 0.6)}))
  report = compare.compare(config, str(tmp_path))
  assert report == saved(tmp_path)
  monkeypatch.setattr(compare, 'measure', None)
  assert compare.compare(config, str(tmp_path)) == report
  settings = report['points'][1]['settings']
  one = contenders.configure(config, 'snip', 0.2, 0, settings)
  assert one.schedule_boundaries == (0.3, 0.6)


class TestChoose:
  def test_the_most_accurate_at_the_nearest_tuned_density(self):
    config = short_config(tuning_densities=(0.05, 0.01))
    trials = [
      stub('rigl', asked, 0, {'learning_rate': rate}, accuracy=accuracy)
      for asked, rate, accuracy in [
        (0.05, 1e-3, 0.8), (0.05, 2e-3, 0.9), (0.01, 3e-3, 0.7),
        (0.01, 4e-3, 0.6),
      ]
    ]  # fmt: skip
    trials.append(stub('set', 0.05, 0, {'learning_rate': 9.0}, accuracy=1.0))
    chosen = lambda density: compare.choose(config, trials, 'rigl', density)
    # Nearest on a scale of ratios: the middle of 0.05 and 0.01 is 0.0224.
    assert [chosen(d)['learning_rate'] for d in (0.1, 0.023, 0.022, 0.005)] == [
      2e-3, 2e-3, 3e-3, 3e-3,
    ]  # fmt: skip

  def test_the_strength_that_came_nearest(self):
    trials = [
      stub('str', asked, 0, {'s': strength}, reached, accuracy=accuracy)
      for asked, strength, reached, accuracy in [
        (0.1, 1, 0.2, 0.9), (0.1, 2, 0.09, 0.5), (0.05, 3, 0.0, 0.1),
      ]
    ]  # fmt: skip
    choose = lambda d: compare.choose(short_config(), trials, 'str', d)['s']
    assert [choose(d) for d in (0.5, 0.11, 0.01)] == [1, 2, 2]

  def test_shuffled_takes_the_settings_of_scl(self):
    trials = [stub('scl', 0.2, 0, {'scl.ramp': 0.7})]
    assert compare.choose(short_config(), trials, 'shuffled', 0.2) == {
      'scl.ramp': 0.7
    }


def test_trials_never_see_the_test_split(tmp_path, monkeypatch):
  """And final runs train on all that is not the test split."""
  seen = []
  monkeypatch.setattr(
    compare,
    'measure',
    lambda config, dataset, *args: (
      seen.append((dataset.validation, dataset.train.num_examples))
      or stub(*args)
    ),
  )
  monkeypatch.setattr(compare.comparison_report, 'write', lambda *_: None)
  compare.compare(short_config(), str(tmp_path))
  whole = input_pipeline.load_dataset('digits')
  assert [number for _, number in seen] == [437] * 2 + [1437] * 2
  for validation, _ in seen[:2]:
    images = {image.tobytes() for image in np.asarray(whole.train.images)}
    assert all(i.tobytes() in images for i in np.asarray(validation.images))
  assert not any(validation.num_examples for validation, _ in seen[2:])


def test_a_network_is_judged_with_its_own_statistics(monkeypatch):
  """Those of BatchNorm at the end of training, not those of the start."""
  config = short_config()
  config.model, config.image_size = 'resnet8', 16
  dataset = input_pipeline.from_config(config)
  model = models.create_model('resnet8', dataset.num_classes)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 1)))
  params = variables.pop('params')
  images = np.asarray(dataset.test.images)
  labels = np.asarray(dataset.test.labels)
  shares = []
  for shift in (0.0, 1.0):
    keys = jax.random.split(jax.random.key(1), 1000)
    statistics = jax.tree.map(
      lambda x, keys=iter(keys), shift=shift: (
        x + shift * jax.random.uniform(next(keys), x.shape)
      ),
      variables,
    )
    trained = contenders.Trained(
      params, statistics, jax.tree.map(jnp.ones_like, params), 1.0, 0.0, []
    )
    monkeypatch.setattr(contenders, 'run', lambda *_, t=trained: t)
    entry = compare.measure(config, dataset, 'random', 0.2, 0, {})
    logits = model.apply(
      {'params': params, **statistics}, jnp.asarray(images / 255, jnp.float32)
    )
    expected = float((np.argmax(logits, -1) == labels).mean())
    assert entry['accuracy'] == pytest.approx(expected, abs=0.01)
    shares.append(expected)
  assert abs(shares[0] - shares[1]) > 0.02
