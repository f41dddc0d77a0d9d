"""Topological order of a block's nodes, and its cycles."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guidegraph.graph.language.syntax import ParsedLoop, ParsedOp
from guidegraph.graph.planning.topological_order import order_by_edges

if TYPE_CHECKING:
    import networkx as nx

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
    edges = list(list_edges(nodes, outside))
    successors: dict[str, set[str]] = {name: set() for name in nodes}
    for head, name in edges:
        successors[head].add(name)
    names = order_by_edges(successors)
    if len(names) == len(successors):
        return Order(names, {}, frozenset())
    cycles, cyclic = _find_cycles(nodes, edges)
    acyclic = {name: after - cyclic for name, after in successors.items() if name not in cyclic}
    return Order([*order_by_edges(acyclic), *(name for name in nodes if name in cyclic)], cycles, frozenset(cyclic))


def list_edges(nodes: Mapping[str, ParsedOp], outside: Collection[str]) -> Iterator[tuple[str, str]]:
    """For each link within the block, the node that it names and the one that it belongs to."""
    for name, op in nodes.items():
        inner = set(op.inner_names()) if isinstance(op, ParsedLoop) else ()
        for link in op.links():
            head = link.text.partition(".")[0]
            if head in nodes and head not in inner and head not in outside:
                yield head, name


def _find_cycles(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> tuple[dict[str, list[str]], set[str]]:
    """A short cycle of each strongly connected component by its first node, and all names in one."""
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(edges)
    position = {name: i for i, name in enumerate(graph)}
    cycles: dict[str, list[str]] = {}
    cyclic: set[str] = set()
    for component in list(nx.strongly_connected_components(graph)):
        first = min(component, key=position.__getitem__)
        if len(component) > 1 or graph.has_edge(first, first):
            subgraph = graph.subgraph(component)
            if subgraph.has_edge(first, first):
                cycles[first] = [first, first]
            elif len(component) <= MAX_SHOWN:
                paths = nx.single_source_shortest_path(subgraph, first)
                cycles[first] = [*min((paths[end] for end in subgraph.predecessors(first)), key=len), first]
            else:  # one that is short enough: the message leaves out its middle
                end = next(iter(subgraph.predecessors(first)))
                cycles[first] = [*nx.shortest_path(subgraph, first, end), first]
            cyclic |= component
    return cycles, cyclic


def format_cycle(cycle: list[str]) -> str:
    """Format a cycle as ``a -> b -> a``, shortened in the middle."""
    if len(cycle) <= MAX_SHOWN:
        return " -> ".join(cycle)
    return " -> ".join([*cycle[: MAX_SHOWN - 2], f"… ({len(cycle) - 1} nodes)", *cycle[-2:]])
