"""Wires of a workflow: the links that a block can write, the places that take them, and which fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeAlias

from guidegraph.graph.errors import Mark
from guidegraph.graph.language.syntax import (
    NamedLinks,
    ParsedChoice,
    ParsedLoop,
    ParsedNode,
    ParsedOp,
    ParsedWorkflow,
    list_links,
)
from guidegraph.graph.language.yaml_tree import Scalar, YamlSequence
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.link_rule import have_common_type
from guidegraph.graph.resolution.loops import can_iterate, item_type, may_iterate
from guidegraph.graph.resolution.ports import TypeRecord, accepts
from guidegraph.graph.resolution.resolver import list_edges
from guidegraph.graph.resolution.scope import Scope, TypedSource, Unresolved, resolve_link
from guidegraph.graph.types import PortType, namedtuple_fields

NOWHERE = Mark("", 1, 1)
Rule: TypeAlias = Callable[[TypedSource], bool]


@dataclass(frozen=True)
class Target:
    """A place that takes a link.

    path: that of its value in the text. owner: the path of its node or loop; empty for an output of the workflow.
    block: the path of the block whose names its link sees. links: those that it has now. fits: whether a source may be
    linked. takes_more: whether a source may be one of a list. has_list: whether it now has a list, even of one link.
    """

    path: str
    owner: str
    block: str
    name: str
    type: PortType | None
    links: tuple[str, ...]
    fits: Rule
    takes_more: Rule
    required: bool = False
    has_list: bool = False

    def takes(self, typed: TypedSource) -> bool:
        return self.fits(typed) or self.takes_more(typed)

    def takes_in_list(self, typed: TypedSource) -> bool:
        """Whether a source is to be linked as one of a list, and not by itself."""
        return self.takes_more(typed) and (self.has_list or not self.fits(typed))


@dataclass
class Wiring:
    """The wires of a workflow without errors. types: from its ``build``."""

    workflow: ParsedWorkflow
    registry: Registry
    types: TypeRecord
    _reached: dict[tuple[str, str, bool], frozenset[str]] = field(default_factory=dict)
    _neighbours: dict[str, tuple[dict[str, list[str]], dict[str, list[str]]]] = field(default_factory=dict)

    @cached_property
    def scopes(self) -> dict[str, Scope]:
        """The scope of each block of this file, by its path."""
        return {
            f"nodes.{prefix}".rstrip("."): scope for prefix, scope in self.types.scopes.items() if "/" not in prefix
        }

    @cached_property
    def blocks(self) -> dict[str, dict[str, ParsedOp]]:
        """The nodes of each block as written, by its path."""
        blocks: dict[str, dict[str, ParsedOp]] = {}
        pending = [("nodes", self.workflow.nodes)]
        while pending:
            path, ops = pending.pop()
            blocks[path] = ops
            pending += [(f"{op.path}.body", op.body) for op in ops.values() if isinstance(op, ParsedLoop)]
        return blocks

    @cached_property
    def targets(self) -> dict[str, Target]:
        """All places that take a link, by path."""
        targets: list[Target] = []
        for op in (op for ops in self.blocks.values() for op in ops.values()):
            block = op.path.rpartition(".")[0]
            if isinstance(op, ParsedNode):
                targets += self._list_ports(op, block)
            elif isinstance(op, ParsedLoop):
                targets += self._list_in_loop(op, block)
            elif isinstance(op, ParsedChoice):
                branches: NamedLinks = {name: (key.mark, link) for name, (key, link) in op.branches.items()}
                rule = self._same_type(branches)
                targets += _list_by_name(f"{op.path}.choose.of", op.path, block, branches, rule)
        targets += _list_by_name("outputs", "", "nodes", self.workflow.outputs, lambda name: lambda typed: True)
        return {target.path: target for target in targets}

    def resolve(self, link: str, block: str) -> TypedSource | None:
        """The source of a link in a block; ``None`` if it has none there."""
        try:
            return resolve_link(Scalar(link, False, NOWHERE), self.scopes[block], "", guess=False)
        except (Unresolved, KeyError):
            return None

    def list_links(self, block: str) -> Iterator[str]:
        """All links that a block can write, nearest first."""
        for scope in self.scopes[block].chain():
            for name, node in scope.nodes.items():
                if not node.broken:
                    yield from (name if len(node.outputs) == 1 else f"{name}.{output}" for output in node.outputs)
            if scope.loop:
                yield from (f"carry.{name}" for name in scope.carry)
                yield f"loop.{scope.item}"
                yield from (f"loop.{scope.item}.{name}" for name in namedtuple_fields(scope.item_type) or ())
        if self.scopes[block].loop:
            yield "loop.index"
        yield from (f"params.{name}" for name in self.scopes[block].params)

    def find_targets(self, link: str, block: str) -> list[Target]:
        """The places in a block, and in loops inside of it, that take a link to this source."""
        typed = self.resolve(link, block)
        if typed is None:
            return []
        home = self._find_home(link, block)
        required = self._reach(home, link.partition(".")[0], readers=False) if home else frozenset()
        return [
            target
            for target in self.targets.values()
            if f"{target.block}.".startswith(f"{block.rstrip('.')}.")
            and target.takes(typed)
            and not (home and _find_owner(target, home) in required)
        ]

    def find_links(self, target: Target) -> list[str]:
        """The links that a place takes, nearest first."""
        links = []
        for link in self.list_links(target.block):
            typed = self.resolve(link, target.block)
            if typed is not None and target.takes(typed) and not self.makes_cycle(link, target):
                links.append(link)
        return links

    def makes_cycle(self, link: str, target: Target) -> bool:
        """Whether a link to this place would make a node depend on itself."""
        home = self._find_home(link, target.block)
        owner = _find_owner(target, home) if home else ""
        return bool(home and owner) and link.partition(".")[0] in self._reach(home or "", owner, readers=True)

    def _reach(self, block: str, name: str, *, readers: bool) -> frozenset[str]:
        """The names in a block of a node and of all that it depends on, or that depend on it if ``readers``."""
        if (block, name, readers) not in self._reached:
            neighbours = self._edges(block)[readers]
            reached, pending = {name}, [name]
            while pending:
                new = {other for other in neighbours.get(pending.pop(), ()) if other not in reached}
                reached |= new
                pending += new
            self._reached[block, name, readers] = frozenset(reached)
        return self._reached[block, name, readers]

    def _edges(self, block: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """For each node of a block, those that it reads, and those that read it."""
        if block not in self._neighbours:
            before: dict[str, list[str]] = {}
            after: dict[str, list[str]] = {}
            scope = self.scopes[block].parent
            for source, reader in list_edges(self.blocks[block], set(scope.visible_names()) if scope else set()):
                before.setdefault(reader, []).append(source)
                after.setdefault(source, []).append(reader)
            self._neighbours[block] = before, after
        return self._neighbours[block]

    def _find_home(self, link: str, block: str) -> str | None:
        """The block of the node that a link names; ``None`` if it names none."""
        name = link.partition(".")[0]
        return next((outer for outer in iterate_outwards(block) if name in self.blocks[outer]), None)

    def _list_ports(self, node: ParsedNode, block: str) -> Iterator[Target]:
        spec = self.registry.nodes.get(node.use.text)
        if spec is None:  # a workflow that is used as a node
            inputs: NamedLinks = {
                name: (mark, links) for name, (mark, links) in node.inputs.items() if isinstance(links, Scalar)
            }
            yield from _list_by_name(f"{node.path}.in", node.path, block, inputs, self._same_type(inputs))
            return
        for name, port in spec.ports.items():
            links = node.inputs[name][1] if name in node.inputs else None
            element = port.type.sequence.element if port.type.sequence else None
            rules = (partial(accepts, port.type), partial(accepts, element) if element else _takes_nothing)
            path = f"{node.path}.in.{name}"
            has_list = isinstance(links, YamlSequence)
            texts = tuple(link.text for link in list_links(links))
            yield Target(path, node.path, block, name, port.type, texts, *rules, port.required, has_list)

    def _list_in_loop(self, loop: ParsedLoop, block: str) -> Iterator[Target]:
        body = f"{loop.path}.body"
        scope = self.scopes[body]

        def takes_item(typed: TypedSource) -> bool:
            is_allowed = may_iterate if typed.is_given else can_iterate
            return is_allowed(typed.type) and item_type(typed.type) == scope.item_type

        def carries(name: str) -> Rule:
            return lambda typed: have_common_type(scope.carry[name], typed.type)

        if loop.over is not None:
            yield Target(
                f"{loop.path}.loop.over", loop.path, block, "over", None, (loop.over.text,), takes_item, _takes_nothing
            )
        yield from _list_by_name(f"{loop.path}.carry", loop.path, block, loop.carry, carries)
        yield from _list_by_name(f"{loop.path}.next", "", body, loop.next, carries)
        yield from _list_by_name(f"{loop.path}.collect", "", body, loop.collect, lambda name: lambda typed: True)

    def _same_type(self, links: NamedLinks) -> Callable[[str], Rule]:
        def make_rule(name: str) -> Rule:
            link = links[name][1]
            present = None if link is None else self.types.values.get(link.mark)
            return lambda typed: typed.type == present

        return make_rule


def iterate_outwards(block: str) -> Iterator[str]:
    """The path of a block and of those around it, innermost first."""
    while block:
        yield block
        block = block.rpartition(".body")[0].rpartition(".")[0]


def _find_owner(target: Target, home: str) -> str:
    """The name in the block ``home`` of the node that a place is in, or of the loop around it; empty for neither."""
    owner = target.owner if home == target.block else target.block
    return owner.removeprefix(f"{home}.").partition(".")[0] if owner.startswith(f"{home}.") else ""


def _takes_nothing(typed: TypedSource) -> bool:
    return False


def _list_by_name(
    path: str, owner: str, block: str, links: NamedLinks, make_rule: Callable[[str], Rule]
) -> Iterator[Target]:
    for name, (_, link) in links.items():
        if link is not None:
            yield Target(f"{path}.{name}", owner, block, name, None, (link.text,), make_rule(name), _takes_nothing)
