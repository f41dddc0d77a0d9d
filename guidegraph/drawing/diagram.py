"""A diagram of a graph: boxes with ports, and wires between them, for every block.

A loop is a box with a panel inside. Every source that crosses its edge is a port on the edge: ``over``, the carries
and the values that its body reads from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from guidegraph.drawing.layout import Key, Wire
from guidegraph.graph.ir import Call, Graph, Loop, Op, find_loops, walk
from guidegraph.graph.resolution.loops import item_type
from guidegraph.graph.sources import Carry, Index, Item, Literal, Output, Param, Source, Sources, list_sources
from guidegraph.graph.training.fit import Fit
from guidegraph.graph.types import ANY, PortType, namedtuple_fields
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN

LEFT, RIGHT = "<", ">"


@dataclass
class Dot:
    """A port: a dot on the edge of a box, with its label. ``pill`` is the parameter that feeds it, if any.

    link: the link to its value in the block ``block``, and path: the path of its own link; each is empty if the text of
    the workflow has none. free: whether nothing is linked to it.
    """

    label: str
    type: PortType
    pill: str = ""
    used: bool = True
    link: str = ""
    block: str = ""
    path: str = ""
    free: bool = False


@dataclass
class Box:
    """A node, or a loop, which has a panel inside. ``notes`` are literals, or the training options of a loop."""

    title: str
    subtitle: str
    tip: str
    ins: dict[str, Dot] = field(default_factory=dict)
    outs: dict[str, Dot] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    panel: Panel | None = None


@dataclass
class Panel:
    """A block. ``lefts`` and ``rights`` are ports on its edge; ``backs`` are carries, from right to left ports."""

    boxes: dict[str, Box] = field(default_factory=dict)
    lefts: dict[str, Dot] = field(default_factory=dict)
    rights: dict[str, Dot] = field(default_factory=dict)
    wires: dict[Wire, PortType] = field(default_factory=dict)
    backs: list[tuple[str, str]] = field(default_factory=list)


def local_name(key: str) -> str:
    """A node's name in its own block."""
    return key.rpartition(".body.")[2]


def build_diagram(graph: Graph, live: bool = False) -> Panel:
    """The diagram of a graph: the panel of its top level, with panels for all loops.

    live: with links and paths, and with the input ports to which nothing is linked.
    """
    return _DiagramBuilder(graph, live).build()


class _DiagramBuilder:
    def __init__(self, graph: Graph, live: bool) -> None:
        self.graph = graph
        self.live = live
        self.ops: dict[str, Op] = {op.key: op for op in walk(graph.ops, previews=False)}
        self.loops = find_loops(self.ops.values())
        sources: list[Source] = [output.source for output in graph.outputs.values()]
        for op in self.ops.values():
            sources += op.sources()
        for loop in self.loops.values():
            sources += loop.roots()
        self.used = {source for source in sources if isinstance(source, Output)}

    def build(self) -> Panel:
        top = Panel()
        pending: list[tuple[Panel, Mapping[str, Op], Loop | None]] = [(top, self.graph.ops, None)]
        while pending:
            panel, ops, loop = pending.pop()
            if loop is not None:
                for name, (port, source) in self._list_loop_inputs(loop).items():
                    link = self._find_inner_link(loop, name, source)
                    panel.lefts[name] = Dot(port.label, port.type, link=link, block=f"nodes.{loop.key}.body")
            for key, op in ops.items():
                box = panel.boxes[key] = self._make_box(op)
                if op.has_blocks:
                    box.panel = Panel()
                    pending.append((box.panel, op.body, op))
                for name, port, source in self._list_inputs(op):
                    self._add_wire(panel, ops, loop, source, (key, name), name, box.ins, port)
                if self.live and not (op.has_blocks or op.has_branches or "/" in op.key):
                    free = {name: port.type for name, port in op.spec.inputs.items() if name not in op.inputs}
                    box.ins |= {n: Dot(n, kind, path=f"nodes.{op.key}.in.{n}", free=True) for n, kind in free.items()}
            exits = self._list_loop_outputs(loop) if loop else self._list_graph_outputs()
            for name, (port, fed) in exits.items():
                panel.rights[name] = port
                if fed is not None:
                    self._add_wire(panel, ops, loop, fed, ((RIGHT, name), ""), name, panel.rights, port)
            if loop is not None:
                panel.backs = [(name, f"carry.{name}") for name in loop.next if name in loop.carry]
        return top

    def _add_wire(
        self,
        panel: Panel,
        ops: Mapping[str, Op],
        loop: Loop | None,
        source: Source,
        target: tuple[Key, str],
        name: str,
        ports: dict[str, Dot],
        port: Dot,
    ) -> None:
        """Connect a source to the port ``target``: with a wire, or as a parameter's pill at the top level."""
        ports.setdefault(name, port)
        own_loop = "" if loop is None else loop.key
        origin: tuple[Key, str]
        match source:
            case Literal():
                return
            case Param(parameter) if loop is None:
                ports[name].pill = parameter
                return
            case Output(op, output) if op in ops:
                origin = (op, output)
            case Carry(key, carried) if key == own_loop:
                origin = ((LEFT, f"carry.{carried}"), "")
            case Item(key) if key == own_loop:
                origin = ((LEFT, "over"), "")
            case Index(key) if key == own_loop:
                origin = ((LEFT, "index"), "")
            case _:
                origin = ((LEFT, self._make_label(source)), "")
        panel.wires[Wire(origin[0], origin[1], target[0], target[1])] = self._find_type(source)

    def _make_box(self, op: Op) -> Box:
        match op:
            case Call():
                box = Box(local_name(op.key), op.spec.id, op.spec.summary)
                for name, sources in op.arguments():
                    if all(isinstance(source, Literal) for source in list_sources(sources)):
                        box.notes.append(f"{name} = {_format_value(sources)}")
            case Loop():
                over = self._make_label(op.over)
                box = Box(local_name(op.key), f"for each {op.item} of {over}", f"loop over {over}")
        if isinstance(op, Fit):
            for model in op.training.models:
                source = model.linked.get("lr", Literal(model.lr))
                rate = f"params.{source.name}" if isinstance(source, Param) else _format_value(source)
                box.notes.append(f"trains {model.model}: {model.optimizer}, lr {rate}")
        is_plain = not op.has_blocks and list(op.outputs) == ["out"]
        for name, kind in op.outputs.items():
            used, link = Output(op.key, name) in self.used, self._make_link(Output(op.key, name))
            box.outs[name] = Dot("" if is_plain else name, kind, used=used, link=link, block=block_of(op.key))
        return box

    def _list_inputs(self, op: Op) -> Iterator[tuple[str, Dot, Source]]:
        if op.has_blocks:
            for name, (port, source) in self._list_loop_inputs(op).items():
                if source is not None:
                    yield name, port, source
            return
        for name, source in op.links():
            declared = op.spec.ports.get(name)
            if not isinstance(source, Literal):
                group = "in"
                if op.has_branches:
                    group = CHOOSE if name in (WHEN, OTHERWISE) else f"{CHOOSE}.{OF}"
                path = self._make_path(op, group, name)
                yield name, Dot(name, declared.type if declared else ANY, path=path), source

    def _list_loop_inputs(self, loop: Loop) -> dict[str, tuple[Dot, Source | None]]:
        """The ports on a loop's left edge, each with its source outside."""
        over = self._make_path(loop, "loop", "over")
        ports: dict[str, tuple[Dot, Source | None]] = {
            "over": (Dot(loop.item, item_type(self._find_type(loop.over)), path=over), loop.over)
        }
        inner_sources = dict.fromkeys(loop.block.sources())
        if Index(loop.key) in inner_sources:
            ports["index"] = (Dot("index", PortType((int,))), None)
        for name, source in loop.carry.items():
            label = f"{name} = {_format_value(source)}" if isinstance(source, Literal) else name
            kind = loop.outputs.get(name) or self._find_type(source)
            ports[f"carry.{name}"] = (Dot(label, kind, path=self._make_path(loop, "carry", name)), source)
        if loop.steps is not None:
            label = f"steps = {_format_value(loop.steps)}" if isinstance(loop.steps, Literal) else "steps"
            ports["steps"] = (Dot(label, PortType((int,))), loop.steps)
        for source in inner_sources:
            is_own = isinstance(source, (Carry, Item, Index)) and source.loop == loop.key
            if isinstance(source, Literal) or is_own or (isinstance(source, Output) and source.op in loop.body):
                continue
            ports[self._make_label(source)] = (Dot(self._make_label(source), self._find_type(source)), source)
        return ports

    def _list_loop_outputs(self, loop: Loop) -> dict[str, tuple[Dot, Source | None]]:
        """The ports on a loop's right edge, each with its source in the body."""
        sources: dict[str, Source] = {**loop.next, **loop.collect}
        ports: dict[str, tuple[Dot, Source | None]] = {}
        for name, kind in loop.outputs.items():
            label = f"all {name}" if name in loop.collect else name
            group = "collect" if name in loop.collect else "next"
            ports[name] = (Dot(label, kind, path=self._make_path(loop, group, name)), sources.get(name))
        for label, source in loop.extra_results().items():
            ports[label] = (Dot(label, self._find_type(source)), source)
        return ports

    def _list_graph_outputs(self) -> dict[str, tuple[Dot, Source | None]]:
        return {
            name: (Dot(name, out.type, path=f"outputs.{name}" if self.live else ""), out.source)
            for name, out in self.graph.outputs.items()
        }

    def _make_path(self, op: Op, group: str, name: str) -> str:
        """The path of a link in the text; empty for one in a sub-workflow, whose text is elsewhere."""
        return f"nodes.{op.key}.{group}.{name}" if self.live and "/" not in op.key else ""

    def _find_inner_link(self, loop: Loop, name: str, source: Source | None) -> str:
        """The link to a port on a loop's left edge from inside the loop; empty if there is none."""
        if not self.live or "/" in loop.key:
            return ""
        inner = {"over": f"loop.{loop.item}", "index": "loop.index", "steps": ""}
        if name in inner or name.startswith("carry."):
            return inner.get(name, name)
        return self._make_link(source) if isinstance(source, (Output, Param)) else ""

    def _make_link(self, source: Source) -> str:
        """The link to a source in the text of the workflow; empty for one that has none there."""
        if not self.live:
            return ""
        match source:
            case Output(op) if "/" in op:
                return ""
            case Param(name):
                return f"params.{name}"
            case Carry(_, name):
                return f"carry.{name}"
            case Item(loop, field):
                item = f"loop.{self.loops[loop].item}"
                return f"{item}.{field}" if field else item
            case Index():
                return "loop.index"
        return self._make_label(source)

    def _make_label(self, source: Source) -> str:
        """A source's name as in a workflow."""
        match source:
            case Output(op, name):
                is_only = list(self.ops[op].outputs) == [name]
                return local_name(op) if is_only else f"{local_name(op)}.{name}"
            case Param(name):
                return name
            case Carry(loop, name):
                return f"{local_name(loop)}: {name}"
            case Item(loop):
                return f"{local_name(loop)}: {self.loops[loop].item}"
            case Index(loop):
                return f"{local_name(loop)}: index"
        return _format_value(source)

    def _find_type(self, source: Source) -> PortType:
        match source:
            case Output(op, name):
                return self.ops[op].outputs[name]
            case Param(name):
                return self.graph.params[name].port.type
            case Carry(key, name):
                loop = self.loops[key]
                return loop.outputs.get(name) or self._find_type(loop.carry[name])
            case Item(key, field):
                item = item_type(self._find_type(self.loops[key].over))
                return (namedtuple_fields(item) or {}).get(field, ANY) if field else item
            case Index():
                return PortType((int,))
            case Literal(value):
                return PortType((type(value),))


def block_of(key: str) -> str:
    """The path of the block that holds an operation; empty for one of a sub-workflow."""
    return "" if "/" in key else f"nodes.{key}".rpartition(".")[0]


def _format_value(sources: Sources | Any, limit: int = 30) -> str:
    """Literals on one line, shortened to ``limit``; a path is shortened to its end."""
    from pathlib import Path

    values = [source.value if isinstance(source, Literal) else source for source in list_sources(sources)]
    value = values[0] if len(values) == 1 else values
    if isinstance(value, Path):
        text = "/".join(value.parts[-2:])
        return text if len(text) <= limit else "…" + text[1 - limit :]
    text = f"“{value}”" if isinstance(value, str) else _format_plain(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _format_plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_format_plain(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_value(value: Any, limit: int = 30) -> str:
    """A value on one line, shortened to ``limit``."""
    return _format_value(Literal(value), limit)


def collect_types(panel: Panel) -> Iterable[PortType]:
    """The types of all wires and ports, in order of first occurrence."""
    types: dict[PortType, None] = {}
    pending = [panel]
    while pending:
        current = pending.pop(0)
        types |= dict.fromkeys(current.wires.values())
        for box in current.boxes.values():
            types |= dict.fromkeys(p.type for p in (*box.ins.values(), *box.outs.values()))
            if box.panel:
                pending.append(box.panel)
        types |= dict.fromkeys(p.type for p in (*current.lefts.values(), *current.rights.values()))
    return types
