"""Random graphs of built-in nodes and of typed test nodes, and a naive interpreter for comparison.

``graph = random_graph(seed)``: ``graph.text`` is the YAML, ``graph.registry`` its nodes and types, ``graph.files`` its
sub-workflows, ``graph.params`` the values of parameters without a default; ``graph.write(folder)`` writes all files and
returns the path. ``wild_graph`` may have invalid links; ``sampler_graph`` can be exported (``graph.exportable``).
"""

from tests.random_graphs.generate import RandomGraph, random_graph, wild_graph
from tests.random_graphs.samplers import sampler_graph

__all__ = ["RandomGraph", "random_graph", "sampler_graph", "wild_graph"]
