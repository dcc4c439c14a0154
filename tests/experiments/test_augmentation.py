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
"""Pixels: moved and mirrored as a seed says, brought to a range."""

import jax
import numpy as np

from experiments import augmentation


def images_of(n=64, size=6):
  rng = np.random.default_rng(0)
  return rng.integers(1, 256, (n, size, size, 3), dtype=np.uint8)


def test_every_crop_is_a_window_of_the_padded_image_or_its_mirror():
  images = images_of()
  found = np.asarray(
    augmentation.crop_and_flip(jax.random.key(0), images, padding=2, flip=True)
  )
  assert found.dtype == np.uint8
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
  seen = set()
  for index, image in enumerate(found):
    matches = [
      (i, j, mirrored)
      for i in range(5)
      for j in range(5)
      for mirrored in (False, True)
      for window in [padded[index, i : i + 6, j : j + 6]]
      if np.array_equal(image, window[:, ::-1] if mirrored else window)
    ]
    assert len(matches) == 1
    seen.add(matches[0])
  assert len(seen) > 30  # of 50


def test_the_key_decides():
  images = images_of()
  crop = lambda seed: augmentation.crop_and_flip(
    jax.random.key(seed), images, padding=2, flip=True
  )
  np.testing.assert_array_equal(crop(1), crop(1))
  assert not np.array_equal(crop(1), crop(2))


def test_flips_alone():
  images = images_of()
  found = np.asarray(
    augmentation.crop_and_flip(jax.random.key(0), images, padding=0, flip=True)
  )
  same = (found == images).all(axis=(1, 2, 3))
  mirrored = (found == images[:, :, ::-1]).all(axis=(1, 2, 3))
  assert (same ^ mirrored).all()
  assert 20 < same.sum() < 44


def test_scaling():
  images = images_of()
  pixels = images.astype(np.float64) / 255
  scaling = (tuple(pixels.mean((0, 1, 2))), tuple(pixels.std((0, 1, 2))))
  scaled = np.asarray(augmentation.scale(images, scaling))
  np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(scaled.std((0, 1, 2)), 1, rtol=1e-5)
  np.testing.assert_allclose(augmentation.scale(images), pixels, rtol=1e-6)
