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
"""A model as a graph of primitives, and how features go through them.

`trace` reads the graph, whatever library the model is written in; `layers`
lists its products with params; `label` finds the features that stand or fall
together. What a primitive does to features is in one file for each kind of
primitive, see `scl_jax.graph.rule`.
"""

from scl_jax.graph.labelling import Labelled as Labelled
from scl_jax.graph.labelling import label as label
from scl_jax.graph.layering import Layer as Layer
from scl_jax.graph.layering import layers as layers
from scl_jax.graph.nodes import Call as Call
from scl_jax.graph.nodes import Graph as Graph
from scl_jax.graph.nodes import Node as Node
from scl_jax.graph.nodes import trace as trace
