"""Random graphs over the built-in nodes and over typed nodes of their own, and a naive interpreter to compare with."""

from tests.random_graphs.generate import RandomGraph, random_graph, wild_graph

__all__ = ["RandomGraph", "random_graph", "wild_graph"]
