"""Resolve a region's nodes to operations: links, types, literals, loops and sub-workflows.

Nodes are taken in topological order, so that what a link refers to is known when it is met. A node that is
wrong itself is ``broken``: links to it are not complained about a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import networkx as nx

from guidegraph.graph.errors import Mark, Problem, WorkflowError, choices
from guidegraph.graph.ir import Call, Literal, Loop, Op, Optimised, Output, Parameter, Source, Sources, Training
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.parse import ParsedLoop, ParsedNode, ParsedOp, ParsedTrain, ParsedWorkflow
from guidegraph.graph.paths import resolve as resolve_path
from guidegraph.graph.registry import Registry
from guidegraph.graph.scope import Entry, Scope, Typed, Unresolved, resolve
from guidegraph.graph.training_options import optimiser_options, training_options
from guidegraph.graph.types import (
    ANY,
    PortType,
    SequenceOf,
    Tensor,
    element_of,
    join,
    linkable,
    narrows,
    takes_literal,
)
from guidegraph.graph.yamltree import Scalar, Tree, plain

STR = PortType((str,))


def fits(source: PortType, target: PortType) -> bool:
    """The link rule, and text that names a path."""
    return linkable(source, target) or (source == STR and Path in target.alternatives)


class Elaborator:
    """``parsed`` reads a workflow file; ``params`` checks a workflow's declared parameters."""

    def __init__(
        self,
        registry: Registry,
        problems: list[Problem],
        parsed: Callable[[Path], ParsedWorkflow | None],
        params: Callable[[ParsedWorkflow], dict[str, Parameter]],
    ):
        self.registry = registry
        self.problems = problems
        self.parsed = parsed
        self.params = params

    def add(self, mark: Mark, code: str, message: str, path: str) -> None:
        self.problems.append(Problem(mark, code, message, path))

    def link(self, link: Scalar, scope: Scope, path: str) -> Typed | None:
        try:
            return resolve(link, scope, path)
        except Unresolved as error:
            if error.problem:
                self.problems.append(error.problem)
            return None

    def region(
        self, nodes: Mapping[str, ParsedOp], scope: Scope, prefix: str, base: Path, files: tuple[Path, ...]
    ) -> dict[str, Op]:
        """The operations of a region in topological order; ``scope`` learns their names."""
        for name, op in nodes.items():
            if any(name in outer.nodes for outer in list(scope.chain())[1:]):
                self.add(op.mark, "shadowed-name", f"'{name}' is the name of a node outside; choose another", op.path)
            if isinstance(op, ParsedLoop):
                scope.hidden.update(dict.fromkeys(_inner_names(op), name))
        ops: dict[str, Op] = {}
        for name in self._order(nodes, scope):
            op = nodes[name]
            key = f"{prefix}{name}"
            if isinstance(op, ParsedLoop):
                found, entry = self._loop(op, scope, key, base, files)
            elif op.use.text.endswith((".yaml", ".yml")):
                found, entry = self._workflow(op, scope, key, base, files)
            else:
                found, entry = self._call(op, scope, key, base)
            scope.nodes[name] = entry
            ops.update(found)
        return ops

    def _order(self, nodes: Mapping[str, ParsedOp], scope: Scope) -> list[str]:
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(nodes)
        for name, op in nodes.items():
            for link in op.links():
                head = link.text.partition(".")[0]
                if head in nodes and not (isinstance(op, ParsedLoop) and head in op.body):
                    graph.add_edge(head, name)
        place = {name: i for i, name in enumerate(nodes)}
        if not nx.is_directed_acyclic_graph(graph):
            for component in list(nx.strongly_connected_components(graph)):
                first = min(component, key=place.__getitem__)
                if len(component) > 1 or graph.has_edge(first, first):
                    cycle = [a for a, _ in nx.find_cycle(graph.subgraph(component), first)]
                    shown = " -> ".join([*cycle[:12], *(["…"] if len(cycle) > 12 else []), cycle[0]])
                    message = f"these nodes wait for each other: {shown}"
                    self.add(nodes[first].mark, "cycle", message, nodes[first].path)
                    for name in component:
                        scope.nodes[name] = Entry(broken=True)
                    graph.remove_nodes_from(component)
        return list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))

    def _call(self, node: ParsedNode, scope: Scope, key: str, base: Path) -> tuple[dict[str, Op], Entry]:
        spec = self.registry.nodes.get(node.use.text)
        if spec is None:
            self.add(node.use.mark, "unknown-node", self._unknown(node.use.text), f"{node.path}.use")
            return {}, Entry(broken=True)
        ports = {**spec.inputs, **spec.settings}
        sources: dict[str, Sources] = {}
        checks: list[tuple[str, PortType]] = []
        for name, (mark, links) in node.inputs.items():
            where = f"{node.path}.in.{name}"
            port = ports.get(name)
            if port is None:
                self.add(mark, "unknown-port", f"{spec.id} has no port '{name}'; {_ports(name, spec)}", where)
            elif (found := self._wired(port, links, scope, where)) is not None:
                sources[name] = found[0]
                if found[1]:
                    checks.append((name, port.type))
        for name, (mark, tree) in node.literals.items():
            where = f"{node.path}.with.{name}"
            port = ports.get(name)
            if port is None:
                self.add(mark, "unknown-port", f"{spec.id} has no setting '{name}'; {_ports(name, spec)}", where)
            elif name in node.inputs:
                self.add(mark, "given-twice", f"'{name}' is wired under 'in' too; keep one", where)
            elif (literal := self.literal(port, tree, base, where)) is not None:
                sources[name] = literal
        for name, port in ports.items():
            if port.required and name not in node.inputs and name not in node.literals:
                kind = "setting" if port.setting else "port"
                message = f"{spec.id} needs its {kind} '{name}' ({port.type}); {_ports(name, spec)}"
                self.add(node.mark, "missing-port", message, node.path)
        inputs = {n: sources[n] for n in spec.inputs if n in sources}
        settings = {n: sources[n] for n in spec.settings if n in sources}
        marks = {n: m for n, (m, _) in node.inputs.items()}
        call = Call(key, spec, inputs, settings, node.mark, tuple(checks), marks)
        return {key: call}, Entry({name: (Output(key, name), kind) for name, kind in spec.outputs.items()})

    def _unknown(self, id: str) -> str:
        namespace = id.partition(".")[0]
        if namespace in self.registry.failed:
            return f"'{id}' is not there: the plugin '{namespace}' failed: {self.registry.failed[namespace]}"
        same = [known for known in self.registry.nodes if known.startswith(namespace + ".")]
        hint = choices(id, self.registry.nodes, "nodes", limit=12)
        if same and "did you mean" not in hint:
            hint = f"nodes of '{namespace}': {', '.join(same)}"
        return f"no node '{id:.60}'; {hint}"

    def _wired(self, port: Port, links: Scalar | list[Scalar], scope: Scope, where: str) -> tuple[Sources, bool] | None:
        """Sources for a port, and whether the value needs a check at run time."""
        if isinstance(links, Scalar):
            found = self.link(links, scope, where)
            return None if found is None else self._checked(found, port.type, links, where)
        sequence = port.type.sequence
        if sequence is None:
            mark = links[0].mark if links else Mark("", 0, 0)
            self.add(mark, "not-a-list", f"port '{port.name}' takes one {port.type}, found a list of links", where)
            return None
        sources: list[Source] = []
        for i, link in enumerate(links):
            found = self.link(link, scope, f"{where}.{i}")
            checked = found and self._checked(found, sequence.element, link, f"{where}.{i}")
            if not checked:
                return None
            assert not isinstance(checked[0], tuple)
            sources.append(checked[0])
        return tuple(sources), False

    def _checked(self, found: Typed, target: PortType, link: Scalar, where: str) -> tuple[Sources, bool] | None:
        source, kind = found
        if not fits(kind, target):
            message = f"'{link.text}' gives {kind}, the port takes {target}"
            self.add(link.mark, "type-mismatch", message, where)
            return None
        if isinstance(source, Literal):
            return source, False
        return source, narrows(kind, target)

    def literal(self, port: Port, tree: Tree, base: Path, where: str) -> Literal | None:
        """A validated literal for a port; a relative path is one from ``base``."""
        if not takes_literal(port.type):
            message = f"port '{port.name}' takes {port.type}, which no literal can be; wire it under 'in'"
            self.add(tree.mark, "not-a-literal", message, where)
            return None
        value = plain(tree)
        if value is None and port.type.optional:
            return Literal(None)
        try:
            checked = port.literal(value)
            return Literal(resolve_path(checked, base) if isinstance(checked, Path) else checked)
        except ValueError as error:
            self.add(tree.mark, "bad-value", f"'{port.name}': {error}", where)
            return None

    def _workflow(
        self, node: ParsedNode, scope: Scope, key: str, base: Path, files: tuple[Path, ...]
    ) -> tuple[dict[str, Op], Entry]:
        where = f"{node.path}.use"
        path = Path(resolve_path(node.use.text, base))
        if path in files:
            chain = " -> ".join(p.name for p in (*files[files.index(path) :], path))
            self.add(node.use.mark, "cycle", f"workflows use each other: {chain}", where)
            return {}, Entry(broken=True)
        try:
            workflow = self.parsed(path)
        except WorkflowError as error:
            self.add(node.use.mark, "no-file", f"cannot use '{node.use.text}': {error.problems[0].message}", where)
            return {}, Entry(broken=True)
        if workflow is None:
            return {}, Entry(broken=True)
        declared = self.params(workflow)
        typed = self._parameters(node, declared, scope, base)
        inner = Scope(typed, (frozenset(workflow.params) | frozenset(declared)) - frozenset(typed))
        ops = self.region(workflow.nodes, inner, f"{key}/", path.parent, (*files, path))
        outputs: dict[str, Typed] = {}
        broken = False
        for name, (_, link) in workflow.outputs.items():
            found = self.link(link, inner, f"outputs.{name}")
            if found is None:
                broken = True
            else:
                outputs[name] = found
        return ops, Entry(outputs, broken or not outputs)

    def _parameters(
        self, node: ParsedNode, declared: Mapping[str, Parameter], scope: Scope, base: Path
    ) -> dict[str, Typed]:
        """What the parameters of a sub-workflow are fed with."""
        typed: dict[str, Typed] = {}
        for name, p in declared.items():
            if name in node.inputs:
                links = node.inputs[name][1]
                where = f"{node.path}.in.{name}"
                found = self.link(links, scope, where) if isinstance(links, Scalar) else None
                if isinstance(links, list):
                    self.add(node.inputs[name][0], "not-a-list", "a parameter takes one link", where)
                if found and self._checked(found, p.port.type, links, where):  # type: ignore[arg-type]
                    typed[name] = found
            elif name in node.literals:
                literal = self.literal(p.port, node.literals[name][1], base, f"{node.path}.with.{name}")
                if literal is not None:
                    typed[name] = literal, p.port.type
            elif p.required:
                message = f"the workflow needs its parameter '{name}' ({p.port.type})"
                self.add(node.mark, "missing-port", message, node.path)
            else:
                typed[name] = Literal(p.default), p.port.type
        for group, kind in ((node.inputs, "in"), (node.literals, "with")):
            for name, (mark, _) in group.items():
                if name not in declared:
                    message = f"the workflow has no parameter '{name}'; {choices(name, declared, 'parameters')}"
                    self.add(mark, "unknown-port", message, f"{node.path}.{kind}.{name}")
        return typed

    def _loop(
        self, loop: ParsedLoop, scope: Scope, key: str, base: Path, files: tuple[Path, ...]
    ) -> tuple[dict[str, Op], Entry]:
        over = self.link(loop.over, scope, f"{loop.path}.loop.over")
        if over and not _iterable(over[1]):
            message = f"a loop runs over a sequence or a tensor, '{loop.over.text}' gives {over[1]}"
            self.add(loop.over.mark, "type-mismatch", message, f"{loop.path}.loop.over")
            over = None
        self._names(loop, scope)
        starts = {n: self.link(s, scope, f"{loop.path}.carry.{n}") for n, (_, s) in loop.carry.items()}
        kinds = {name: found[1] if found else ANY for name, found in starts.items()}
        item = element_of(over[1]) if over else ANY
        trained = {t.model.text for t in loop.train}
        self._next_names(loop, trained)
        while True:
            inner = Scope(scope.params, scope.broken_params, parent=scope, loop=key, item=loop.item.text)
            inner.item_type, inner.carry = item, dict(kinds)
            noted = len(self.problems)
            body = self.region(loop.body, inner, f"{key}.body.", base, files)
            nexts = {
                n: self.link(s, inner, f"{loop.path}.next.{n}") for n, (_, s) in loop.next.items() if n in loop.carry
            }
            joined = {n: join(k, f[1]) if (f := nexts.get(n)) else k for n, k in kinds.items()}
            if joined == kinds:
                break
            kinds = joined
            del self.problems[noted:]
        collect = {n: self.link(s, inner, f"{loop.path}.collect.{n}") for n, (_, s) in loop.collect.items()}
        outputs = {**kinds, **{n: _collected(f[1]) if f else ANY for n, f in collect.items()}}
        training = self._training(loop, scope, inner, base) if loop.train else None
        entry = Entry({name: (Output(key, name), kind) for name, kind in outputs.items()})
        failed = over is None or None in starts.values() or None in nexts.values() or None in collect.values()
        if failed or over is None:
            return {}, entry
        op = Loop(
            key,
            over[0],
            loop.item.text,
            {n: f[0] for n, f in starts.items() if f},
            body,
            {n: f[0] for n, f in nexts.items() if f},
            {n: f[0] for n, f in collect.items() if f},
            outputs,
            loop.mark,
            training,
        )
        return {key: op}, entry

    def _names(self, loop: ParsedLoop, scope: Scope) -> None:
        """Carries, the entry's name and collected names must not hide each other."""
        for s in scope.chain():
            for name, (mark, _) in loop.carry.items():
                if s.loop and name in s.carry:
                    where = f"{loop.path}.carry.{name}"
                    self.add(mark, "shadowed-name", f"an enclosing loop carries '{name}' too; rename one", where)
            if s.loop and s.item == loop.item.text:
                message = f"an enclosing loop calls its entry '{s.item}' too; rename one"
                self.add(loop.item.mark, "shadowed-name", message, f"{loop.path}.loop.as")
        for name, (mark, _) in loop.collect.items():
            if name in loop.carry:
                message = f"'{name}' is carried and collected; rename one"
                self.add(mark, "shadowed-name", message, f"{loop.path}.collect.{name}")

    def _next_names(self, loop: ParsedLoop, trained: set[str]) -> None:
        for name, (_, _) in loop.carry.items():
            if name not in loop.next and name not in trained:
                message = f"the carry '{name}' has no 'next': what it is in the next iteration"
                self.add(loop.next_mark, "missing-next", message, f"{loop.path}.next")
        for name, (mark, _) in loop.next.items():
            where = f"{loop.path}.next.{name}"
            if name not in loop.carry:
                message = f"'{name}' is not carried; {choices(name, loop.carry, 'carries')}"
                self.add(mark, "unknown-carry", message, where)
            elif name in trained:
                self.add(mark, "unknown-carry", f"'{name}' is trained; it has no 'next'", where)

    def _training(self, loop: ParsedLoop, scope: Scope, inner: Scope, base: Path) -> Training:
        models: list[Optimised] = []
        for i, entry in enumerate(loop.train):
            where = f"{loop.path}.train.{i}"
            if entry.model.text not in loop.carry:
                hint = choices(entry.model.text, loop.carry, "carries")
                message = f"'{entry.model.text}' is not carried; {hint}"
                self.add(entry.model.mark, "unknown-carry", message, f"{where}.model")
            found = self.link(entry.loss, inner, f"{where}.loss")
            if found and not linkable(found[1], PortType((Tensor,))):
                message = f"a loss is a tensor, '{entry.loss.text}' gives {found[1]}"
                self.add(entry.loss.mark, "type-mismatch", message, f"{where}.loss")
            models.append(self._optimised(entry, found[0] if found else Literal(None), where))
        steps: Source | None = None
        if loop.steps is not None:
            if isinstance(loop.steps.value, int) and loop.steps.value > 0:
                steps = Literal(loop.steps.value)
            elif (linked := self.link(loop.steps, scope, f"{loop.path}.steps")) is not None:
                steps = linked[0]
        return training_options(loop, tuple(models), steps, base, self.add)

    def _optimised(self, entry: ParsedTrain, loss: Source, where: str) -> Optimised:
        return optimiser_options(entry, loss, where, self.add)


def _inner_names(loop: ParsedLoop) -> list[str]:
    names = list(loop.body)
    for op in loop.body.values():
        if isinstance(op, ParsedLoop):
            names += _inner_names(op)
    return names


def _iterable(kind: PortType) -> bool:
    return any(
        isinstance(a, SequenceOf) or a in (object, int, list, tuple) or Tensor in a.__mro__ or hasattr(a, "__getitem__")
        for a in kind.alternatives
    )


def _collected(kind: PortType) -> PortType:
    tensors = all(isinstance(a, type) and Tensor in a.__mro__ for a in kind.alternatives)
    return PortType((Tensor,)) if tensors and kind.alternatives else PortType((SequenceOf(kind),))


def _ports(name: str, spec: NodeSpec) -> str:
    named = [f"{p.name}{'' if p.required else '?'}" for p in spec.inputs.values()]
    settings = [f"{p.name}{'' if p.required else '?'}" for p in spec.settings.values()]
    hint = choices(name, [*spec.inputs, *spec.settings], "ports", limit=0)
    guess = hint if hint.startswith("did you mean") and name not in {*spec.inputs, *spec.settings} else ""
    listed = f"ports: {', '.join(named) or 'none'}; settings: {', '.join(settings) or 'none'}"
    return f"{guess} {listed}".strip()
