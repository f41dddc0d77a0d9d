"""What a link may refer to, and what each link turns out to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from guidegraph.graph.errors import Problem, choices
from guidegraph.graph.ir import Carry, Index, Item, Source
from guidegraph.graph.types import ANY, PortType, fields_of
from guidegraph.graph.yamltree import Scalar, kind_of

INT = PortType((int,))

Typed = tuple[Source, PortType]


@dataclass
class Entry:
    """A node that links can name: its outputs, or nothing where the node itself is wrong (``broken``)."""

    outputs: Mapping[str, Typed] = field(default_factory=dict)
    broken: bool = False


@dataclass
class Scope:
    """Names of a region; a body's scope has that of the region around it as ``parent``."""

    params: Mapping[str, Typed]
    broken_params: frozenset[str] = frozenset()
    nodes: dict[str, Entry] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    parent: Scope | None = None
    loop: str = ""
    item: str = ""
    item_type: PortType = ANY
    carry: dict[str, PortType] = field(default_factory=dict)

    def chain(self) -> Iterable[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def entry(self, name: str) -> Entry | None:
        return next((s.nodes[name] for s in self.chain() if name in s.nodes), None)

    def visible(self) -> list[str]:
        return [name for scope in self.chain() for name in scope.nodes]


class Unresolved(Exception):
    """A link that cannot be resolved. ``problem`` is None where its cause is reported elsewhere."""

    def __init__(self, problem: Problem | None):
        super().__init__(problem)
        self.problem = problem


def resolve(link: Scalar, scope: Scope, path: str) -> Typed:
    """What a link refers to. Raises ``Unresolved``."""

    def fail(code: str, message: str) -> Unresolved:
        return Unresolved(Problem(link.mark, code, message, path))

    text = link.text
    if link.plain and not isinstance(link.value, str) and scope.entry(text) is None:
        raise fail("not-a-link", f"expected a link, found {kind_of(link)}; literals stand under 'with'")
    head, _, rest = text.partition(".")
    if head == "params":
        if rest in scope.params:
            return scope.params[rest]
        if rest in scope.broken_params:
            raise Unresolved(None)
        raise fail("unknown-param", f"no parameter '{rest}'; {choices(rest, scope.params, 'parameters')}")
    if head in ("carry", "loop"):
        return _of_loop(head, rest, scope, fail)
    entry = scope.entry(head)
    if entry is None:
        raise fail("unknown-link", _unknown(text, head, scope))
    if entry.broken:
        raise Unresolved(None)
    if rest:
        if rest in entry.outputs:
            return entry.outputs[rest]
        raise fail("unknown-output", f"'{head}' has no output '{rest}'; {choices(rest, entry.outputs, 'outputs')}")
    if len(entry.outputs) == 1:
        return next(iter(entry.outputs.values()))
    if not entry.outputs:
        raise fail("no-output", f"'{head}' has no outputs")
    outputs = ", ".join(f"{head}.{name}" for name in entry.outputs)
    raise fail("ambiguous-link", f"'{head}' has several outputs; write one of: {outputs}")


def _unknown(text: str, head: str, scope: Scope) -> str:
    for s in scope.chain():
        if head in s.hidden:
            loop = s.hidden[head]
            names = ", ".join(f"{loop}.{o}" for o in s.nodes[loop].outputs) if loop in s.nodes else "nothing"
            return f"'{head}' is inside the loop '{loop}'; from outside only its outputs can be linked: {names}"
    if any(mark in text for mark in "/\\ ") or text.endswith((".safetensors", ".yaml", ".pt")):
        return f"'{text:.60}' is not a link; a literal stands under 'with'"
    return f"no node '{head:.60}'; {choices(head, scope.visible(), 'nodes')}"


def _of_loop(head: str, rest: str, scope: Scope, fail: object) -> Typed:
    assert callable(fail)
    loops = [s for s in scope.chain() if s.loop]
    if not loops:
        raise fail("outside-loop", f"'{head}' exists in a loop's body only")
    if head == "carry":
        for s in loops:
            if rest in s.carry:
                return Carry(s.loop, rest), s.carry[rest]
        names = [name for s in loops for name in s.carry]
        raise fail("unknown-carry", f"the loop carries no '{rest}'; {choices(rest, names, 'carries')}")
    if rest == "index":
        return Index(loops[0].loop), INT
    name, _, field_name = rest.partition(".")
    for s in loops:
        if name != s.item:
            continue
        if not field_name:
            return Item(s.loop), s.item_type
        fields = fields_of(s.item_type)
        if fields is None and s.item_type.is_any:
            return Item(s.loop, field_name), ANY
        if fields and field_name in fields:
            return Item(s.loop, field_name), fields[field_name]
        raise fail(
            "unknown-field", f"an entry has no field '{field_name}'; {choices(field_name, fields or (), 'fields')}"
        )
    names = [s.item for s in loops] + ["index"]
    raise fail("unknown-loop-value", f"the loop gives no '{name}'; {choices(name, names, 'values')}")
