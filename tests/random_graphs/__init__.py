"""Random graphs over the built-in nodes and over typed nodes of their own, and a naive interpreter to compare with.

``graph = random_graph(seed)``: ``graph.text`` is the YAML, ``graph.registry`` what it may use, ``graph.files`` the
workflows that it uses, ``graph.params`` values for parameters without a default; ``graph.write(folder)`` writes all and
gives the path. ``wild_graph`` may have wrong links, ``sampler_graph`` is one for an export (``graph.exportable``).
"""

from tests.random_graphs.generate import RandomGraph, random_graph, wild_graph
from tests.random_graphs.samplers import sampler_graph

__all__ = ["RandomGraph", "random_graph", "sampler_graph", "wild_graph"]
