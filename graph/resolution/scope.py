"""Scopes: the names that links can refer to, and the resolution of links in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from guidegraph.graph.errors import Problem, suggest
from guidegraph.graph.language.yaml_tree import Scalar, describe_tree, shorten
from guidegraph.graph.resolution.link_rule import narrows
from guidegraph.graph.sources import Carry, Index, Item, Literal, Param, Source
from guidegraph.graph.types import ANY, PortType, namedtuple_fields

INT = PortType((int,))
FILE_ENDINGS = (".safetensors", ".yaml", ".yml", ".pt", ".png", ".jpg", ".npy", ".npz", ".json", ".txt")


class TypedSource(NamedTuple):
    """The source that a link refers to, with its type.

    actual_type: more than ``type`` says, if known: for a parameter of a sub-workflow, the type that its caller links;
    for tensors of a loop, the type with their axes. possible_type: every type that the value can have, if it is only
    usually of ``type``.
    """

    source: Source
    type: PortType
    actual_type: PortType | None = None
    possible_type: PortType | None = None

    @property
    def is_given(self) -> bool:
        """Whether its value is checked before the run: that of a parameter or literal is."""
        return isinstance(self.source, GIVEN)

    @property
    def widest_type(self) -> PortType:
        """The type that is guaranteed: ``actual_type`` if that is wider than ``type``, else ``type``."""
        return self.actual_type if self.actual_type is not None and narrows(self.actual_type, self.type) else self.type


GIVEN = (Param, Literal)
"""Kinds of sources whose values are checked before the run."""


@dataclass(slots=True)
class ResolvedNode:
    """A resolved node that links can refer to.

    broken: the node is invalid, so links to it are not reported. partial: it may have further outputs.
    """

    outputs: Mapping[str, TypedSource] = field(default_factory=dict)
    broken: bool = False
    partial: bool = False


@dataclass
class Scope:
    """The names in a block; the ``parent`` of a loop's body is the scope of the enclosing block.

    names: all nodes of the block. nodes: those resolved so far. hidden: names inside a loop, with the loop's name.
    outputs: the output names of each loop. unread: which of ``params``, ``nodes``, ``carry`` and ``loop`` could not be
    read, so that an unknown name may be one of them.
    """

    params: Mapping[str, TypedSource]
    broken_params: Collection[str] = ()
    names: Collection[str] = ()
    nodes: dict[str, ResolvedNode] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    parent: Scope | None = None
    loop: str = ""
    item: str | None = None
    item_type: PortType = ANY
    exact_item_type: PortType = ANY
    carry: Mapping[str, PortType] = field(default_factory=dict)

    def chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def find_node(self, name: str) -> ResolvedNode | None:
        return next((s.nodes[name] for s in self.chain() if name in s.nodes), None)

    def visible_names(self) -> list[str]:
        return [name for scope in self.chain() for name in scope.names]


class Unresolved(Exception):
    """A link cannot be resolved. ``problem`` is None if the cause is reported elsewhere."""

    def __init__(self, problem: Problem | None):
        super().__init__(problem)
        self.problem = problem


def resolve_link(link: Scalar, scope: Scope, path: str, guess: bool = True) -> TypedSource:
    """Resolve a link to its source. Raises ``Unresolved``. guess: whether to suggest the closest name."""
    return _LinkResolver(link, scope, path, guess).resolve()


@dataclass(frozen=True)
class _LinkResolver:
    link: Scalar
    scope: Scope
    path: str
    guess: bool

    def fail(self, code: str, message: str) -> NoReturn:
        raise Unresolved(Problem(self.link.mark, code, message, self.path))

    def suggest(self, name: str, candidates: Collection[str], noun: str) -> str:
        return suggest(name[:60], candidates, noun) if self.guess else f"there are {len(candidates)} {noun}"

    def resolve(self) -> TypedSource:
        link, scope = self.link, self.scope
        head, dot, remainder = link.text.partition(".")
        if head == "params" and dot:
            return self.resolve_param(remainder)
        if head in ("carry", "loop") and dot:
            return self.resolve_in_loop(head, remainder)
        entry = scope.find_node(head)
        if entry is None:
            self.fail_unknown(head)
        if entry.broken:
            raise Unresolved(None)
        return self.resolve_output(head, remainder, entry) if dot else self.resolve_only_output(head, entry)

    def resolve_param(self, name: str) -> TypedSource:
        scope = self.scope
        if name in scope.params:
            return scope.params[name]
        if name in scope.broken_params or "params" in scope.unread:
            raise Unresolved(None)
        hint = self.suggest(name, scope.params, "parameters")
        self.fail("unknown-param", f"no parameter '{shorten(name)}'; {hint}")

    def resolve_output(self, head: str, name: str, entry: ResolvedNode) -> TypedSource:
        if name in entry.outputs:
            return entry.outputs[name]
        if entry.partial:
            raise Unresolved(None)
        for scope in self.scope.chain():
            if scope.hidden.get(name.partition(".")[0]) == head:
                self.fail_inside_loop(name.partition(".")[0], head, scope)
        hint = self.suggest(name, entry.outputs, "outputs")
        self.fail("unknown-output", f"'{head}' has no output '{shorten(name)}'; {hint}")

    def resolve_only_output(self, head: str, entry: ResolvedNode) -> TypedSource:
        if entry.partial:
            raise Unresolved(None)
        if len(entry.outputs) == 1:
            return next(iter(entry.outputs.values()))
        if not entry.outputs:
            self.fail("no-output", f"'{head}' has no outputs")
        outputs = ", ".join(f"{head}.{name}" for name in entry.outputs)
        self.fail("ambiguous-link", f"'{head}' has several outputs; write one of: {outputs}")

    def fail_unknown(self, head: str) -> NoReturn:
        link, text = self.link, self.link.text
        if head in ("params", "carry", "loop"):
            self.fail("not-a-link", f"'{head}' alone is not a value: write {head}.NAME")
        if (link.plain and not isinstance(link.value, str)) or not text:
            self.fail("not-a-link", f"expected a link, found {describe_tree(link)}; literals go under 'with'")
        for scope in self.scope.chain():
            if head in scope.hidden:
                self.fail_inside_loop(head, scope.hidden[head], scope)
        if any(mark in text for mark in "/\\: ") or text.endswith(FILE_ENDINGS):
            self.fail("not-a-link", f"'{shorten(text)}' is not a link; literals go under 'with'")
        if any("nodes" in scope.unread for scope in self.scope.chain()):
            raise Unresolved(None)
        if meant := self.find_with_prefix(head):
            hint = f"did you mean '{meant}'?"
        else:
            hint = self.suggest(head, self.scope.visible_names(), "nodes")
        self.fail("unknown-link", f"no node '{shorten(head)}'; {hint}")

    def fail_inside_loop(self, name: str, loop: str, scope: Scope) -> NoReturn:
        outputs = ", ".join(f"{loop}.{output}" for output in scope.outputs[loop]) or "none"
        message = f"'{name}' is inside the loop '{loop}'; from outside only its outputs can be linked"
        self.fail("inside-loop", f"{message}: {outputs}")

    def find_with_prefix(self, name: str) -> str | None:
        """The link to a parameter, carry or loop value of this name, if there is one."""
        for scope in self.scope.chain():
            if scope.loop and name in scope.carry:
                return f"carry.{name}"
            if scope.loop and name in (scope.item, "index"):
                return f"loop.{name}"
        return f"params.{name}" if name in self.scope.params else None

    def resolve_in_loop(self, head: str, remainder: str) -> TypedSource:
        loops = [scope for scope in self.scope.chain() if scope.loop]
        if not loops:
            self.fail("outside-loop", f"'{head}' exists in a loop's body only")
        name, _, field_name = remainder.partition(".")
        if head == "carry":
            return self.resolve_carry(name, remainder, loops)
        if remainder == "index":
            return TypedSource(Index(loops[0].loop), INT)
        for scope in loops:
            if name == scope.item:
                return (
                    self.resolve_item_field(scope, field_name)
                    if "." in remainder
                    else TypedSource(Item(scope.loop), scope.item_type, scope.exact_item_type)
                )
        if any(scope.item is None for scope in loops):
            raise Unresolved(None)
        names = [*(s.item for s in loops if s.item), "index"]
        self.fail(
            "unknown-loop-value", f"the loop has no value '{shorten(name)}'; {self.suggest(name, names, 'values')}"
        )

    def resolve_carry(self, name: str, remainder: str, loops: list[Scope]) -> TypedSource:
        for scope in loops:
            if name in scope.carry:
                if remainder != name:
                    self.fail("unknown-field", f"a field of 'carry.{name}' cannot be linked: write carry.{name}")
                return TypedSource(Carry(scope.loop, name), scope.carry[name])
        if any("carry" in scope.unread for scope in loops):
            raise Unresolved(None)
        names = [name for scope in loops for name in scope.carry]
        message = f"the loop has no carry '{shorten(name)}'; {self.suggest(name, names, 'carries')}"
        self.fail("unknown-carry", message)

    def resolve_item_field(self, scope: Scope, field_name: str) -> TypedSource:
        fields = namedtuple_fields(scope.item_type)
        if fields is None and scope.item_type.is_any and field_name.isidentifier():
            return TypedSource(Item(scope.loop, field_name), ANY)
        if fields and field_name in fields:
            return TypedSource(Item(scope.loop, field_name), fields[field_name])
        hint = self.suggest(field_name, fields or (), "fields")
        self.fail("unknown-field", f"an item has no field '{shorten(field_name)}'; {hint}")
