"""Topological order of a block's nodes, and its cycles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from guidegraph.graph.language.syntax import ParsedLoop, ParsedOp

MAX_SHOWN = 12


@dataclass(frozen=True)
class Order:
    """``names`` in topological order, those on a cycle last; ``cycles`` by their first node in the file;
    ``cyclic``: all names on a cycle.
    """

    names: list[str]
    cycles: dict[str, list[str]]
    cyclic: frozenset[str]


def sort_topologically(nodes: Mapping[str, ParsedOp], outside: Collection[str] = ()) -> Order:
    """The order of a block's nodes. A loop depends on every node of the block that its body reads.

    outside: names of enclosing blocks; a link to such a name refers to the node outside, even if the block reuses it.
    """
    position = {name: i for i, name in enumerate(nodes)}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    for name, op in nodes.items():
        inner = set(op.inner_names()) if isinstance(op, ParsedLoop) else ()
        for link in op.links():
            head = link.text.partition(".")[0]
            if head in position and head not in inner and head not in outside:
                graph.add_edge(head, name)
    cycles: dict[str, list[str]] = {}
    cyclic: set[str] = set()
    if not nx.is_directed_acyclic_graph(graph):
        for component in list(nx.strongly_connected_components(graph)):
            first = min(component, key=position.__getitem__)
            if len(component) > 1 or graph.has_edge(first, first):
                cycles[first] = _find_shortest_cycle(graph, component, first)
                cyclic |= component
        graph.remove_nodes_from(cyclic)
    names = list(nx.lexicographical_topological_sort(graph, key=position.__getitem__))
    return Order([*names, *sorted(cyclic, key=position.__getitem__)], cycles, frozenset(cyclic))


def _find_shortest_cycle(graph: nx.DiGraph[str], component: set[str], first: str) -> list[str]:
    """A shortest cycle through ``first``."""
    subgraph = graph.subgraph(component)
    if subgraph.has_edge(first, first):
        return [first, first]
    paths = nx.single_source_shortest_path(subgraph, first) if len(component) <= MAX_SHOWN else None
    ends = list(subgraph.predecessors(first))
    if paths is not None:
        return [*min((paths[end] for end in ends), key=len), first]
    return [*nx.shortest_path(subgraph, first, ends[0]), first]


def format_cycle(cycle: list[str]) -> str:
    """Format a cycle as ``a -> b -> a``, shortened in the middle."""
    if len(cycle) <= MAX_SHOWN:
        return " -> ".join(cycle)
    return " -> ".join([*cycle[: MAX_SHOWN - 2], f"… ({len(cycle) - 1} nodes)", *cycle[-2:]])
