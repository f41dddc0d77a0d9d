"""The order in which a region's nodes are taken, and the cycles that leave some without one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from guidegraph.graph.parsed import ParsedLoop, ParsedOp

SHOWN = 12


@dataclass(frozen=True)
class Order:
    """``names`` in topological order, those on a cycle last; ``cycles`` by their first node in the file."""

    names: list[str]
    cycles: dict[str, list[str]]
    cyclic: frozenset[str]


def ordered(nodes: Mapping[str, ParsedOp], outside: Collection[str] = ()) -> Order:
    """The order of a region's nodes. A loop waits for all that its body reads of the region.

    outside: names around the region, whose nodes are meant where one of the region wrongly has the same name.
    """
    place = {name: i for i, name in enumerate(nodes)}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    for name, op in nodes.items():
        inner = set(op.inner_names()) if isinstance(op, ParsedLoop) else ()
        for link in op.links():
            head = link.text.partition(".")[0]
            if head in place and head not in inner and head not in outside:
                graph.add_edge(head, name)
    cycles: dict[str, list[str]] = {}
    cyclic: set[str] = set()
    if not nx.is_directed_acyclic_graph(graph):
        for component in list(nx.strongly_connected_components(graph)):
            first = min(component, key=place.__getitem__)
            if len(component) > 1 or graph.has_edge(first, first):
                cycles[first] = _through(graph, component, first)
                cyclic |= component
        graph.remove_nodes_from(cyclic)
    names = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
    return Order([*names, *sorted(cyclic, key=place.__getitem__)], cycles, frozenset(cyclic))


def _through(graph: nx.DiGraph[str], component: set[str], first: str) -> list[str]:
    """A shortest way from ``first`` back to itself."""
    inside = graph.subgraph(component)
    if inside.has_edge(first, first):
        return [first, first]
    paths = nx.single_source_shortest_path(inside, first) if len(component) <= SHOWN else None
    ends = list(inside.predecessors(first))
    if paths is not None:
        return [*min((paths[end] for end in ends), key=len), first]
    return [*nx.shortest_path(inside, first, ends[0]), first]


def shown(cycle: list[str]) -> str:
    """``a -> b -> a``, shortened in the middle."""
    if len(cycle) <= SHOWN:
        return " -> ".join(cycle)
    return " -> ".join([*cycle[: SHOWN - 2], f"… ({len(cycle) - 1} nodes)", *cycle[-2:]])
