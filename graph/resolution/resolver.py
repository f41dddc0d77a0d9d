"""Resolution of a block's nodes to operations: links, types and literals.

Nodes are resolved in topological order, so the target of a link is known when the link is resolved. An invalid node
is ``broken``: links to it are not reported. Loops, choices and sub-workflows have modules of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.graph.errors import closest_match, suggest
from guidegraph.graph.ir import Call, Op
from guidegraph.graph.kinds import find_kind, load_function
from guidegraph.graph.language.named_workflows import WORKFLOW_SUFFIXES
from guidegraph.graph.language.syntax import (
    ParsedBroken,
    ParsedLoop,
    ParsedNode,
    ParsedOp,
)
from guidegraph.graph.language.yaml_tree import Scalar, shorten
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.planning.topological_order import order_by_edges
from guidegraph.graph.port import Port
from guidegraph.graph.resolution.block_resolver import BlockContext, BlockResolver
from guidegraph.graph.resolution.link_rule import narrows
from guidegraph.graph.resolution.ports import describe_ports
from guidegraph.graph.resolution.scope import ResolvedNode, Scope, TypedSource, Unresolved, resolve_link
from guidegraph.graph.resolution.sub_workflows import resolve_sub_workflow
from guidegraph.graph.sources import Output, Sources
from guidegraph.graph.types import PortType, union

if TYPE_CHECKING:
    import networkx as nx


class Resolver(BlockResolver):
    """Resolves the nodes of a workflow to operations."""

    def resolve_block(self, nodes: Mapping[str, ParsedOp], scope: Scope, block: BlockContext) -> dict[str, Op]:
        """Resolve a block: its operations in topological order. Adds its nodes to ``scope``."""
        scope.names = nodes
        if self.types is not None:
            self.types.scopes[block.prefix] = scope
        outside = set(scope.parent.visible_names()) if scope.parent is not None else set()
        for name, op in nodes.items():
            if name in outside:
                self.report(
                    op.mark, "shadowed-name", f"'{name}' is the name of a node outside; choose another", op.path
                )
            if isinstance(op, ParsedLoop):
                scope.hidden.update(dict.fromkeys(op.inner_names(), name))
                scope.outputs[name] = (*op.carry, *op.collect)
        order = sort_topologically(nodes, outside)
        for name, cycle in order.cycles.items():
            op = nodes[name]
            message = f"these nodes depend on each other: {format_cycle(cycle)}"
            if cycle == [name, name]:
                hint = "; in its body the value so far is carry.NAME" if isinstance(op, ParsedLoop) else ""
                message = f"'{name}' depends on itself{hint}"
            self.report(op.mark, "cycle", message, op.path)
        scope.nodes |= {name: ResolvedNode(broken=True) for name in order.cyclic}
        ops: dict[str, Op] = {}
        for name in order.names:
            resolved, entry = self.resolve_operation(nodes[name], scope, f"{block.prefix}{name}", block)
            if name not in order.cyclic:
                scope.nodes[name] = entry
                ops.update(resolved)
        return ops

    def resolve_operation(
        self, op: ParsedOp, scope: Scope, key: str, block: BlockContext
    ) -> tuple[dict[str, Op], ResolvedNode]:
        """Resolve a node with the key ``key``: its operations, and its outputs for links."""
        if isinstance(op, ParsedBroken):
            return {}, ResolvedNode(broken=True)
        if not isinstance(op, ParsedNode):
            resolved: tuple[dict[str, Op], ResolvedNode] = load_function(find_kind(op.kind).resolve)(
                self, op, scope, key, block
            )
            return resolved
        if op.use.text.endswith(WORKFLOW_SUFFIXES):
            return resolve_sub_workflow(self, op, scope, key, block)
        return self._resolve_call(op, scope, key, block.base)

    def _resolve_call(self, node: ParsedNode, scope: Scope, key: str, base: Path) -> tuple[dict[str, Op], ResolvedNode]:
        spec = self.registry.nodes.get(node.use.text)
        if spec is None:
            if not (self.missing_plugins and node.use.text.partition(".")[0] not in self._list_namespaces()):
                self.report(node.use.mark, "unknown-node", self._describe_unknown(node.use.text), f"{node.path}.use")
            self.check_links(node, scope)
            return {}, ResolvedNode(broken=True)
        ports = spec.ports
        sources: dict[str, Sources] = {}
        checks: list[tuple[str, PortType]] = []
        for name, (mark, links) in node.inputs.items():
            port = ports.get(name)
            path = f"{node.path}.in.{name if port else shorten(name)}"
            if port is None:
                message = f"{spec.id} has no port '{shorten(name)}'; {describe_ports(name, spec)}"
                self.report(mark, "unknown-port", message, path)
            elif links is not None and (connected := self.connect_links(port, links, scope, path)) is not None:
                sources[name] = connected[0]
                checks += zip(repeat(name), connected[1])
        for name, (mark, tree) in node.literals.items():
            port = ports.get(name)
            path = f"{node.path}.with.{name if port else shorten(name)}"
            if port is None:
                message = f"{spec.id} has no setting '{shorten(name)}'; {describe_ports(name, spec)}"
                self.report(mark, "unknown-port", message, path)
            elif name in node.inputs:
                self.report(mark, "given-twice", f"'{name}' is wired under 'in' too; keep one", path)
            elif (literal := self.resolve_literal(port, tree, base, scope, path)) is not None:
                sources[name] = literal
        self._report_missing(node, spec)
        inputs = {n: sources[n] for n in spec.inputs if n in sources}
        settings = {n: sources[n] for n in spec.settings if n in sources}
        marks = {n: m for n, (m, _) in (*node.inputs.items(), *node.literals.items())}
        call = Call(key, spec, inputs, settings, node.mark, tuple(checks), marks)
        outputs: dict[str, TypedSource] = {}
        for name, kind in spec.outputs.items():
            if ports_bound := spec.same_type.get(name):  # to the output's type variable
                linked = [self._find_link_type(node, spec.inputs[n], scope) for n in ports_bound]
                bound = union([actual for actual in linked if actual is not None])
                kind = kind if None in linked or narrows(bound, kind) else bound
            outputs[name] = TypedSource(Output(key, name), kind)
        return {key: call}, ResolvedNode(outputs)

    def _find_link_type(self, node: ParsedNode, port: Port, scope: Scope) -> PortType | None:
        """The type of a port's link or default; None if unknown."""
        links = node.inputs[port.name][1] if port.name in node.inputs else None
        if links is None:
            return PortType((), optional=True) if port.name not in node.inputs and port.default is None else None
        try:
            typed = resolve_link(links, scope, "", guess=False) if isinstance(links, Scalar) else None
        except Unresolved:
            return None
        return None if typed is None or typed.possible_type is not None else typed.actual_type or typed.type

    def _report_missing(self, node: ParsedNode, spec: NodeSpec) -> None:
        """Report required ports that are missing, unless an unknown name looks like a misspelling of one."""
        ports = spec.ports
        missing = [n for n, p in ports.items() if n not in node.inputs and n not in node.literals and p.required]
        if not missing or node.partial:
            return
        guesses = {closest_match(name[:60], missing) for name in (*node.inputs, *node.literals) if name not in ports}
        for name in missing:
            if name not in guesses:
                kind = "setting" if ports[name].setting else "port"
                message = f"{spec.id} needs its {kind} '{name}' ({ports[name].type}); {describe_ports(name, spec)}"
                self.report(node.mark, "missing-port", message, node.path)

    def _describe_unknown(self, id: str) -> str:
        namespace = id.partition(".")[0]
        reason = self.registry.failed.get(namespace)
        members = [node for node in self.registry.nodes if node.startswith(f"{namespace}.")]
        if reason is not None:
            cause = f"the plugin '{namespace}' could not be loaded: {reason}"
            if guess := closest_match(id[:60], members):
                return f"no node '{shorten(id)}'; did you mean '{guess}'? Others are missing: {cause}"
            return f"'{shorten(id)}' is not available: {cause}"
        if "/" in id:
            return f"no node '{shorten(id)}'; the name of a workflow's file ends in .yaml or .yml"
        guess = closest_match(id[:60], self.registry.nodes)
        namespaces = self._list_namespaces()
        if guess and (namespace in namespaces or closest_match(namespace[:60], namespaces) == guess.partition(".")[0]):
            return f"no node '{shorten(id)}'; did you mean '{guess}'?"
        if members:
            return f"no node '{shorten(id)}'; nodes of '{namespace}': {', '.join(members)}"
        name = id.rpartition(".")[2]
        matches = [node for node in self.registry.nodes if node.rpartition(".")[2] == name]
        hint = f" did you mean '{matches[0]}'?" if matches else ""
        suggestion = suggest(namespace[:60], namespaces, "namespaces", limit=30)
        misspelt = hint or suggestion.startswith("did you mean") or "." not in id
        missing = "" if misspelt else "; is its plugin missing? install it, or give --plugin FILE"
        return f"no node '{shorten(id)}';{hint} {suggestion}{missing}"

    def _list_namespaces(self) -> list[str]:
        return list(dict.fromkeys(id.partition(".")[0] for id in self.registry.nodes))


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
