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
"""Tries what was built, with nothing installed but the wheel: `make dist`.

Of the source archive it looks at the names.
"""

import importlib
import pathlib
import pkgutil
import sys
import tarfile
import tempfile

import jax
import jax.numpy as jnp
import optax

import scl_jax

# The one module that cannot be imported without its extra.
NEEDS_EXTRA = 'scl_jax.inference.vectors'


def check_modules() -> None:
  """All modules are there, and none but one needs more than the library."""
  folder = pathlib.Path(scl_jax.__file__).parent
  source = pathlib.Path(__file__).parents[1] / 'scl_jax'
  assert folder != source, f'{source} is imported, not the wheel.'
  names = lambda root: {
    str(path.relative_to(root))
    for path in root.rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }
  assert names(folder) == names(source), names(folder) ^ names(source)
  for module in pkgutil.walk_packages(scl_jax.__path__, 'scl_jax.'):
    if module.name != NEEDS_EXTRA:
      importlib.import_module(module.name)
  message = 'It was imported without numba.'
  try:
    importlib.import_module(NEEDS_EXTRA)
  except ImportError as error:
    message = str(error)
  assert "pip install 'scl_jax[inference]'" in message, message


def check_training(folder: pathlib.Path) -> None:
  """The library trains, compacts and says what its extras are for."""
  params = {'kernel': jnp.eye(8, 6), 'bias': jnp.zeros(6)}
  fn = lambda params, x: jnp.tanh(x @ params['kernel'] + params['bias'])
  x = jnp.ones((2, 8))
  tx = scl_jax.sparsify(
    optax.adam(1e-2), scl_jax.scl(target_density=0.25, freeze_step=4)
  )
  opt_state = tx.init(params)
  for _ in range(5):
    grads = jax.grad(lambda params: fn(params, x).sum())(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
  masks = scl_jax.get_masks(opt_state)
  print(scl_jax.summary(params, masks))
  assert scl_jax.live_connections(masks)['kernel'] == 12
  scl_jax.compact(fn, params, masks, x)

  def inference():
    module = importlib.import_module('scl_jax.inference')
    module.compile(fn, params, masks, x, batch_sizes=[2])

  for extra, use in (
    ('export', lambda: scl_jax.save(folder / 'a', params, masks=masks)),
    ('export', lambda: scl_jax.save_stablehlo(folder / 'a', fn, params, x)),
    ('onnx', lambda: scl_jax.save_onnx(folder / 'a', fn, params, x)),
    ('inference', inference),
  ):
    try:
      use()
    except ImportError as error:
      if f"pip install 'scl_jax[{extra}]'" not in str(error):
        raise
    else:
      raise AssertionError(f'Nothing of scl_jax[{extra}] was needed.')


def check_archive(folder: pathlib.Path) -> None:
  """What experiments and documentation read is in the source archive."""
  (path,) = folder.glob('*.tar.gz')
  with tarfile.open(path) as archive:
    found = {name.partition('/')[2] for name in archive.getnames()}
  root = pathlib.Path(__file__).parents[1]
  wanted = {
    str(file.relative_to(root))
    for name in ('docs', 'experiments', 'notebooks', 'scl_jax', 'tests')
    for file in (root / name).rglob('*')
    if file.suffix in ('.py', '.md', '.ipynb', '.json', '.html', '.css', '.js')
    and not {'_build', 'report.html'} & {*file.parts}
    and (root / 'docs' / 'notebooks') not in file.parents
  }
  assert wanted <= found, sorted(wanted - found)


if __name__ == '__main__':
  check_modules()
  with tempfile.TemporaryDirectory() as name:
    check_training(pathlib.Path(name))
  check_archive(pathlib.Path(sys.argv[1]))
