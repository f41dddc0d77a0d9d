"""Resolve a region's nodes to operations: links, types and literals; loops and sub-workflows have files of their own.

Nodes are taken in topological order, so that what a link refers to is known when it is met. A node that is
wrong itself is ``broken``: links to it are not complained about a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from guidegraph.graph.elaborate_choice import elaborate_choice
from guidegraph.graph.elaborate_loop import elaborate_loop
from guidegraph.graph.elaborate_workflow import elaborate_workflow
from guidegraph.graph.errors import Problem, choices, closest
from guidegraph.graph.ir import Call, Op, Output, Parameter, Sources
from guidegraph.graph.link_rule import narrows
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.order import ordered, shown
from guidegraph.graph.parsed import ParsedBroken, ParsedChoice, ParsedLoop, ParsedNode, ParsedOp, ParsedWorkflow
from guidegraph.graph.registry import Registry
from guidegraph.graph.scope import Entry, Scope, Typed, Unresolved, resolve
from guidegraph.graph.types import PortType, union
from guidegraph.graph.wiring import Wiring, ports_text
from guidegraph.graph.yamltree import Scalar, short

WORKFLOW_ENDINGS = (".yaml", ".yml")


@dataclass(frozen=True)
class Place:
    """Where a region stands.

    prefix: of its operations' keys. base: its file's folder, and ``shown`` that folder as errors show it. files: the
    workflows that are being read, from the outermost. loops: how many are around it, over all files.
    """

    prefix: str
    base: Path
    shown: str
    files: tuple[Path, ...]
    loops: int = 0


class Elaborator(Wiring):
    """Makes operations of a workflow's nodes.

    parsed: reads a workflow file, given its path and how errors show it. params: checks its parameters. lacking:
    required plugins that are not there, which grows as files are read.
    """

    def __init__(
        self,
        registry: Registry,
        problems: list[Problem],
        parsed: Callable[[Path, str], ParsedWorkflow | None],
        params: Callable[[ParsedWorkflow], dict[str, Parameter]],
        lacking: Collection[str] = (),
    ):
        super().__init__(registry, problems)
        self.parsed = parsed
        self.params = params
        self.lacking = lacking
        self.carried: dict[str, dict[str, PortType]] = {}

    def region(self, nodes: Mapping[str, ParsedOp], scope: Scope, place: Place) -> dict[str, Op]:
        """The operations of a region in topological order; ``scope`` learns their names."""
        scope.names = nodes
        outside = set(scope.parent.visible()) if scope.parent is not None else set()
        for name, op in nodes.items():
            if name in outside:
                self.add(op.mark, "shadowed-name", f"'{name}' is the name of a node outside; choose another", op.path)
            if isinstance(op, ParsedLoop):
                scope.hidden.update(dict.fromkeys(op.inner_names(), name))
                scope.outputs[name] = (*op.carry, *op.collect)
        order = ordered(nodes, outside)
        for name, cycle in order.cycles.items():
            op = nodes[name]
            message = f"these nodes wait for each other: {shown(cycle)}"
            if cycle == [name, name]:
                inside = "; in its body the value so far is carry.NAME" if isinstance(op, ParsedLoop) else ""
                message = f"'{name}' waits for itself{inside}"
            self.add(op.mark, "cycle", message, op.path)
        scope.nodes |= {name: Entry(broken=True) for name in order.cyclic}
        ops: dict[str, Op] = {}
        for name in order.names:
            found, entry = self.operation(nodes[name], scope, f"{place.prefix}{name}", place)
            if name not in order.cyclic:
                scope.nodes[name] = entry
                ops.update(found)
        return ops

    def operation(self, op: ParsedOp, scope: Scope, key: str, place: Place) -> tuple[dict[str, Op], Entry]:
        """The operations that a node stands for, and its outputs; ``key`` is its own."""
        if isinstance(op, ParsedBroken):
            return {}, Entry(broken=True)
        if isinstance(op, ParsedLoop):
            return elaborate_loop(self, op, scope, key, place)
        if isinstance(op, ParsedChoice):
            return elaborate_choice(self, op, scope, key)
        if op.use.text.endswith(WORKFLOW_ENDINGS):
            return elaborate_workflow(self, op, scope, key, place)
        return self._call(op, scope, key, place.base)

    def _call(self, node: ParsedNode, scope: Scope, key: str, base: Path) -> tuple[dict[str, Op], Entry]:
        spec = self.registry.nodes.get(node.use.text)
        if spec is None:
            if not (self.lacking and node.use.text.partition(".")[0] not in self._namespaces()):
                self.add(node.use.mark, "unknown-node", self._unknown(node.use.text), f"{node.path}.use")
            self.follow(node, scope)
            return {}, Entry(broken=True)
        ports = {**spec.inputs, **spec.settings}
        sources: dict[str, Sources] = {}
        checks: list[tuple[str, PortType]] = []
        for name, (mark, links) in node.inputs.items():
            where = f"{node.path}.in.{short(name)}"
            port = ports.get(name)
            if port is None:
                message = f"{spec.id} has no port '{short(name)}'; {ports_text(name, spec)}"
                self.add(mark, "unknown-port", message, where)
            elif links is not None and (found := self.wired(port, links, scope, where)) is not None:
                sources[name] = found[0]
                checks += [(name, kind) for kind in found[1]]
        for name, (mark, tree) in node.literals.items():
            where = f"{node.path}.with.{short(name)}"
            port = ports.get(name)
            if port is None:
                message = f"{spec.id} has no setting '{short(name)}'; {ports_text(name, spec)}"
                self.add(mark, "unknown-port", message, where)
            elif name in node.inputs:
                self.add(mark, "given-twice", f"'{name}' is wired under 'in' too; keep one", where)
            elif (literal := self.literal(port, tree, base, scope, where)) is not None:
                sources[name] = literal
        self._missing(node, spec)
        inputs = {n: sources[n] for n in spec.inputs if n in sources}
        settings = {n: sources[n] for n in spec.settings if n in sources}
        marks = {n: m for n, (m, _) in node.inputs.items()}
        call = Call(key, spec, inputs, settings, node.mark, tuple(checks), marks)
        kinds = {name: self._output_type(node, spec, name, scope) for name in spec.outputs}
        return {key: call}, Entry({name: Typed(Output(key, name), kind) for name, kind in kinds.items()})

    def _output_type(self, node: ParsedNode, spec: NodeSpec, output: str, scope: Scope) -> PortType:
        """The type of an output: what its type variable stands for here, or what the node declares."""
        declared = spec.outputs[output]
        found = [self._linked_type(node, spec.inputs[name], scope) for name in spec.same_type.get(output, ())]
        known = union([kind for kind in found if kind is not None])
        return declared if not found or None in found or narrows(known, declared) else known

    def _linked_type(self, node: ParsedNode, port: Port, scope: Scope) -> PortType | None:
        """The type of what feeds a port, or of its default; None where that is not known."""
        links = node.inputs[port.name][1] if port.name in node.inputs else None
        if links is None:
            return PortType((), optional=True) if port.name not in node.inputs and port.default is None else None
        try:
            found = resolve(links, scope, "", guess=False) if isinstance(links, Scalar) else None
        except Unresolved:
            return None
        return None if found is None or found.loose is not None else found.given or found.type

    def _missing(self, node: ParsedNode, spec: NodeSpec) -> None:
        """Ports that must be given and are not, unless a misspelt one is there that was meant."""
        ports = {**spec.inputs, **spec.settings}
        missing = [n for n, p in ports.items() if p.required and n not in node.inputs and n not in node.literals]
        if not missing or node.partial:
            return
        meant = {closest(name[:60], missing) for name in (*node.inputs, *node.literals) if name not in ports}
        for name in missing:
            if name not in meant:
                kind = "setting" if ports[name].setting else "port"
                message = f"{spec.id} needs its {kind} '{name}' ({ports[name].type}); {ports_text(name, spec)}"
                self.add(node.mark, "missing-port", message, node.path)

    def _unknown(self, id: str) -> str:
        namespace = id.partition(".")[0]
        if namespace in self.registry.failed:
            reason = self.registry.failed[namespace]
            return f"'{short(id)}' is not there: the plugin '{namespace}' could not be loaded: {reason}"
        if "/" in id:
            return f"no node '{short(id)}'; the name of a workflow's file ends in .yaml or .yml"
        guess = closest(id[:60], self.registry.nodes)
        known = self._namespaces()
        if guess and (namespace in known or closest(namespace[:60], known) == guess.partition(".")[0]):
            return f"no node '{short(id)}'; did you mean '{guess}'?"
        if namespace in known:
            same = [node for node in self.registry.nodes if node.startswith(f"{namespace}.")]
            return f"no node '{short(id)}'; nodes of '{namespace}': {', '.join(same)}"
        last = id.rpartition(".")[2]
        same = [node for node in self.registry.nodes if node.rpartition(".")[2] == last]
        meant = f" did you mean '{same[0]}'?" if same else ""
        return f"no node '{short(id)}';{meant} {choices(namespace[:60], known, 'namespaces', limit=30)}"

    def _namespaces(self) -> list[str]:
        return list(dict.fromkeys(id.partition(".")[0] for id in self.registry.nodes))
