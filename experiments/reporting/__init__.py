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
"""What `experiments.report` is made of.

| module | what it does |
|---|---|
| `reading` | from the files of a workdir to plain values |
| `charts` | from these to Vega-Lite specifications |
| `pictures` | from masks to PNG |
| `page` | from all that to HTML; with `page.html`, `page.css` and `page.js` |
"""
