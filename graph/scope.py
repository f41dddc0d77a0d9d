"""What a link may refer to, and what each link turns out to be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from guidegraph.graph.errors import Problem, choices
from guidegraph.graph.ir import Carry, Index, Item, Source
from guidegraph.graph.link_rule import narrows
from guidegraph.graph.types import ANY, PortType, fields_of
from guidegraph.graph.yamltree import Scalar, kind_of, short

INT = PortType((int,))
FILE_ENDINGS = (".safetensors", ".yaml", ".yml", ".pt", ".png", ".jpg", ".npy", ".npz", ".json", ".txt")


class Typed(NamedTuple):
    """What a link gives.

    given: what is known beside ``type``: of a parameter of a sub-workflow, the type of what its caller gives; of
    tensors of a loop, their axes. loose: all that the source may be, where it is of ``type`` only as a rule.
    """

    source: Source
    type: PortType
    given: PortType | None = None
    loose: PortType | None = None

    @property
    def widest(self) -> PortType:
        """All that the source promises: what the caller gives, where that promises less than ``type``."""
        return self.given if self.given is not None and narrows(self.given, self.type) else self.type


@dataclass
class Entry:
    """A node that links can name.

    broken: the node is wrong itself, and nothing is said of links to it. partial: it may have more outputs.
    """

    outputs: Mapping[str, Typed] = field(default_factory=dict)
    broken: bool = False
    partial: bool = False


@dataclass
class Scope:
    """Names of a region; a body's scope has that of the region around it as ``parent``.

    names: all nodes of the region. nodes: what is known of those that were met so far. hidden: names inside a loop,
    with the loop's name. unread: which of ``params``, ``nodes``, ``carry`` and ``loop`` could not be read, so that
    a name that is not there may have been meant to be.
    """

    params: Mapping[str, Typed]
    broken_params: Collection[str] = ()
    names: Collection[str] = ()
    nodes: dict[str, Entry] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    parent: Scope | None = None
    loop: str = ""
    item: str | None = None
    item_type: PortType = ANY
    item_known: PortType = ANY
    carry: Mapping[str, PortType] = field(default_factory=dict)

    def chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def entry(self, name: str) -> Entry | None:
        return next((s.nodes[name] for s in self.chain() if name in s.nodes), None)

    def visible(self) -> list[str]:
        return [name for scope in self.chain() for name in scope.names]


class Unresolved(Exception):
    """A link that cannot be resolved. ``problem`` is None where its cause is reported elsewhere."""

    def __init__(self, problem: Problem | None):
        super().__init__(problem)
        self.problem = problem


def resolve(link: Scalar, scope: Scope, path: str, guess: bool = True) -> Typed:
    """What a link refers to. Raises ``Unresolved``. guess: whether to look for the name that was meant."""
    return _Resolver(link, scope, path, guess).resolve()


@dataclass(frozen=True)
class _Resolver:
    link: Scalar
    scope: Scope
    path: str
    guess: bool

    def fail(self, code: str, message: str) -> NoReturn:
        raise Unresolved(Problem(self.link.mark, code, message, self.path))

    def choices(self, name: str, known: Collection[str], what: str) -> str:
        return choices(name[:60], known, what) if self.guess else f"there are {len(known)} {what}"

    def resolve(self) -> Typed:
        link, scope = self.link, self.scope
        head, dot, rest = link.text.partition(".")
        if head == "params" and dot:
            return self.param(rest)
        if head in ("carry", "loop") and dot:
            return self.of_loop(head, rest)
        entry = scope.entry(head)
        if entry is None:
            self.unknown(head)
        if entry.broken:
            raise Unresolved(None)
        return self.output(head, rest, entry) if dot else self.only_output(head, entry)

    def param(self, name: str) -> Typed:
        scope = self.scope
        if name in scope.params:
            return scope.params[name]
        if name in scope.broken_params or "params" in scope.unread:
            raise Unresolved(None)
        hint = self.choices(name, scope.params, "parameters")
        self.fail("unknown-param", f"no parameter '{short(name)}'; {hint}")

    def output(self, head: str, name: str, entry: Entry) -> Typed:
        if name in entry.outputs:
            return entry.outputs[name]
        if entry.partial:
            raise Unresolved(None)
        for scope in self.scope.chain():
            if scope.hidden.get(name.partition(".")[0]) == head:
                self.inside(name.partition(".")[0], head, scope)
        hint = self.choices(name, entry.outputs, "outputs")
        self.fail("unknown-output", f"'{head}' has no output '{short(name)}'; {hint}")

    def only_output(self, head: str, entry: Entry) -> Typed:
        if entry.partial:
            raise Unresolved(None)
        if len(entry.outputs) == 1:
            return next(iter(entry.outputs.values()))
        if not entry.outputs:
            self.fail("no-output", f"'{head}' has no outputs")
        outputs = ", ".join(f"{head}.{name}" for name in entry.outputs)
        self.fail("ambiguous-link", f"'{head}' has several outputs; write one of: {outputs}")

    def unknown(self, head: str) -> NoReturn:
        link, text = self.link, self.link.text
        if head in ("params", "carry", "loop"):
            self.fail("not-a-link", f"'{head}' alone is no value: write {head}.NAME")
        if (link.plain and not isinstance(link.value, str)) or not text:
            self.fail("not-a-link", f"expected a link, found {kind_of(link)}; literals stand under 'with'")
        for scope in self.scope.chain():
            if head in scope.hidden:
                self.inside(head, scope.hidden[head], scope)
        if any(mark in text for mark in "/\\: ") or text.endswith(FILE_ENDINGS):
            self.fail("not-a-link", f"'{short(text)}' is not a link; literals stand under 'with'")
        if any("nodes" in scope.unread for scope in self.scope.chain()):
            raise Unresolved(None)
        if meant := self.without_prefix(head):
            hint = f"did you mean '{meant}'?"
        else:
            hint = self.choices(head, self.scope.visible(), "nodes")
        self.fail("unknown-link", f"no node '{short(head)}'; {hint}")

    def inside(self, name: str, loop: str, scope: Scope) -> NoReturn:
        outputs = ", ".join(f"{loop}.{output}" for output in scope.outputs[loop]) or "none"
        message = f"'{name}' is inside the loop '{loop}'; from outside only its outputs can be linked"
        self.fail("inside-loop", f"{message}: {outputs}")

    def without_prefix(self, name: str) -> str | None:
        """A parameter, carry or loop value of this name."""
        for scope in self.scope.chain():
            if scope.loop and name in scope.carry:
                return f"carry.{name}"
            if scope.loop and name in (scope.item, "index"):
                return f"loop.{name}"
        return f"params.{name}" if name in self.scope.params else None

    def of_loop(self, head: str, rest: str) -> Typed:
        loops = [scope for scope in self.scope.chain() if scope.loop]
        if not loops:
            self.fail("outside-loop", f"'{head}' exists in a loop's body only")
        name, _, field_name = rest.partition(".")
        if head == "carry":
            return self.carried(name, rest, loops)
        if rest == "index":
            return Typed(Index(loops[0].loop), INT)
        for scope in loops:
            if name == scope.item:
                return (
                    self.entry_of(scope, field_name)
                    if "." in rest
                    else Typed(Item(scope.loop), scope.item_type, scope.item_known)
                )
        if any(scope.item is None for scope in loops):
            raise Unresolved(None)
        names = [*(s.item for s in loops if s.item), "index"]
        self.fail("unknown-loop-value", f"the loop gives no '{short(name)}'; {self.choices(name, names, 'values')}")

    def carried(self, name: str, rest: str, loops: list[Scope]) -> Typed:
        for scope in loops:
            if name in scope.carry:
                if rest != name:
                    self.fail("unknown-field", f"nothing of 'carry.{name}' can be linked alone: write carry.{name}")
                return Typed(Carry(scope.loop, name), scope.carry[name])
        if any("carry" in scope.unread for scope in loops):
            raise Unresolved(None)
        names = [name for scope in loops for name in scope.carry]
        message = f"the loop carries no '{short(name)}'; {self.choices(name, names, 'carries')}"
        self.fail("unknown-carry", message)

    def entry_of(self, scope: Scope, field_name: str) -> Typed:
        fields = fields_of(scope.item_type)
        if fields is None and scope.item_type.is_any and field_name.isidentifier():
            return Typed(Item(scope.loop, field_name), ANY)
        if fields and field_name in fields:
            return Typed(Item(scope.loop, field_name), fields[field_name])
        hint = self.choices(field_name, fields or (), "fields")
        self.fail("unknown-field", f"an entry has no field '{short(field_name)}'; {hint}")
