"""Links and literals of single ports: what they are, whether they fit, and what to say where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from guidegraph.graph.errors import Mark, Problem, choices
from guidegraph.graph.ir import Literal, Param, Source, Sources
from guidegraph.graph.link_rule import linkable, may_fit, may_pass, narrows
from guidegraph.graph.literals import absolute_path, is_text, literal_value
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.parsed import Links, ParsedNode, links_of
from guidegraph.graph.registry import Registry
from guidegraph.graph.scope import Scope, Typed, Unresolved, resolve
from guidegraph.graph.types import PortType, mismatch, remedies, takes_literal
from guidegraph.graph.yamltree import Scalar, Tree, plain, short
from guidegraph.graph.yamltree import Sequence as SequenceTree

GUESSES = 100
CONVERSIONS = 3


Checks: TypeAlias = tuple[PortType, ...]
"""The types that a value must be checked for at run time."""


@dataclass(frozen=True)
class Origin:
    """Where a literal stands that goes on to other ports: its place, and the folder of its file."""

    mark: Mark
    base: Path
    path: str


class Wiring:
    """Resolves links and literals of ports, and notes what is wrong with them."""

    def __init__(self, registry: Registry, problems: list[Problem]):
        self.registry = registry
        self.problems = problems
        self.origins: dict[Literal, Origin] = {}

    def add(self, mark: Mark, code: str, message: str, path: str) -> None:
        self.problems.append(Problem(mark, code, message, path))

    def link(self, link: Scalar, scope: Scope, path: str) -> Typed | None:
        try:
            return resolve(link, scope, path, guess=len(self.problems) < GUESSES)
        except Unresolved as error:
            if error.problem:
                self.problems.append(error.problem)
            return None

    def follow(self, node: ParsedNode, scope: Scope) -> None:
        """Look up the links of a node whose ports are not known."""
        for name, (_, links) in node.inputs.items():
            for i, link in enumerate(links_of(links)):
                self.link(link, scope, f"{node.path}.in.{short(name)}{'' if links is link else f'.{i}'}")

    def wired(self, port: Port, links: Links, scope: Scope, where: str) -> tuple[Sources, Checks] | None:
        """Sources for a port, and what its value must be checked for at run time. None where a link is wrong."""
        if isinstance(links, Scalar):
            found = self.link(links, scope, where)
            return None if found is None else self.fitting(found, port, links, scope, where)
        sequence = port.type.sequence
        if sequence is None:
            message = f"port '{port.name}' takes one {port.type}, found a list of links"
            self.add(links.mark, "not-a-list", message, where)
            return None
        element = Port(port.name, None, sequence.element)
        parts: list[tuple[Source, Checks] | None] = []
        for i, link in enumerate(links_of(links)):
            here = f"{where}.{i}"
            found = self.link(link, scope, here)
            parts.append(None if found is None else self.fitting(found, element, link, scope, here))
        whole = [part for part in parts if part is not None]
        if len(whole) < len(parts):
            return None
        return tuple(source for source, _ in whole), (port.type,) if any(checks for _, checks in whole) else ()

    def fitting(self, found: Typed, port: Port, link: Scalar, scope: Scope, where: str) -> tuple[Source, Checks] | None:
        """What a link gives, for a port: the source, and what its value must be checked for at run time."""
        source, kind = found.source, found.type
        if kind.optional and found.given is not None and not found.given.optional and not found.given.is_any:
            kind = replace(kind, optional=False)
        if not fits(source, kind, port.type):
            message = f"'{link.text}' gives {kind}, port '{port.name}' takes {port.type}"
            self.add(link.mark, "type-mismatch", message + self._remedy(kind, port.type, link, scope), where)
            return None
        if found.given is not None and not self._may_be_given(source, found.given, port.type):
            message = f"'{link.text}' is {found.given} here, port '{port.name}' takes {port.type}"
            self.add(link.mark, "type-mismatch", message, where)
            return None
        if isinstance(source, Literal):
            constant = self._passed_on(source, port, link, where)
            return None if constant is None else (constant, ())
        if _is_path(source, kind, port.type):
            return source, ()
        return source, _checks(found, port.type)

    def literal(self, port: Port, tree: Tree | None, base: Path, scope: Scope, where: str) -> Literal | None:
        """A validated literal for a port; a relative path is one from ``base``. None where it is wrong."""
        if tree is None:
            return None
        if not takes_literal(port.type) and not (port.type.optional and plain(tree) is None):
            message = f"port '{port.name}' takes {port.type}, which no literal can be; wire it under 'in'"
            self.add(tree.mark, "not-a-literal", message, where)
            return None
        try:
            literal = Literal(literal_value(port, plain(tree), base))
        except ValueError as error:
            message = f"'{port.name}': {error}"
            if isinstance(tree, Scalar) and _is_link(tree, scope):
                message += "; a link stands under 'in'"
            self.add(tree.mark, "bad-value", message, where)
            return None
        if links := [text for text in _plain_texts(tree) if self._is_meant_as_link(text, port, scope)]:
            message = (
                f"'{port.name}': '{short(links[0].text)}' is a link, and under 'with' it would be taken for a text: "
                "put it under 'in' (quotes make it a text)"
            )
            self.add(links[0].mark, "bad-value", message, where)
            return None
        self.origins[literal] = Origin(tree.mark, base, where)
        return literal

    def _may_be_given(self, source: Source, given: PortType, target: PortType) -> bool:
        """Whether what the caller of a sub-workflow gives may be what a port inside takes."""
        if isinstance(source, (Param, Literal)):
            return fits(source, given, target)
        return may_pass(given, target)

    def _is_meant_as_link(self, text: Scalar, port: Port, scope: Scope) -> bool:
        """Whether a text without quotes is surely a link: ``params.NAME`` and the like, or an output of a node."""
        head, dot, rest = text.text.partition(".")
        if not dot or not all(part.isidentifier() for part in rest.split(".")):
            return False
        if _is_link(text, scope):
            return True
        if Path in port.type.alternatives:  # where it may be the name of a file
            return False
        return head in ("params", "carry", "loop") or self._gives(scope, head, rest)

    def _gives(self, scope: Scope, name: str, output: str) -> bool:
        """Whether a node that the scope names, and that need not be resolved yet, has this output."""
        for region in scope.chain():
            node = region.names.get(name) if isinstance(region.names, Mapping) else None
            if isinstance(node, ParsedNode):
                spec = self.registry.nodes.get(node.use.text)
                return spec is not None and output in spec.outputs
        return False

    def _passed_on(self, literal: Literal, port: Port, link: Scalar, where: str) -> Literal | None:
        """A literal that reaches a port through a parameter of a sub-workflow."""
        origin = self.origins.get(literal) or Origin(link.mark, Path.cwd(), where)
        try:
            if port.annotation is not None:
                value = literal_value(port, literal.value, origin.base)
            elif Path in port.type.alternatives and isinstance(literal.value, str):
                value = absolute_path(literal.value, origin.base)
            elif reason := mismatch(literal.value, port.type):
                raise ValueError(reason)
            else:
                value = literal.value
        except ValueError as error:
            message = f"'{link.text}' does not fit port '{port.name}' ({where}, {link.mark}): {error}"
            self.add(origin.mark, "bad-value", message, origin.path)
            return None
        passed = Literal(value)
        self.origins[passed] = origin
        return passed

    def _remedy(self, kind: PortType, target: PortType, link: Scalar, scope: Scope) -> str:
        """What could be linked instead."""
        if target.sequence is not None and linkable(kind, target.sequence.element):
            return f"; write a list: [{link.text}]"
        if kind.optional and linkable(replace(kind, optional=False), target):
            return ", and never None"
        head = link.text.partition(".")[0]
        entry = scope.entry(head)
        outputs = entry.outputs.items() if entry else ()
        fitting = [f"{head}.{name}" for name, other in outputs if fits(other.source, other.type, target)]
        if fitting:
            return f"; of the same node, {' or '.join(fitting)} fits"
        if found := conversions(kind, target, list(self.registry.nodes.values())):
            return f"; nodes that convert: {', '.join(found)}"
        return "".join(f"; {remedy}" for remedy in remedies(target))


def _checks(found: Typed, target: PortType) -> Checks:
    """What a value must be checked for at run time: the type of a parameter that it goes through, and the port's."""
    promised = [found.loose] if found.loose is not None else [found.type, found.given or found.type]
    checks: list[PortType] = []
    if found.widest != found.type and found.type != target:
        checks.append(found.type)
    if all(narrows(kind, target) for kind in promised):
        checks.append(target)
    return tuple(checks)


def fits(source: Source, kind: PortType, target: PortType) -> bool:
    """The link rule; of a parameter or literal, whose value is checked before the run, one fitting type is enough.

    A text of theirs may also name a path.
    """
    if isinstance(source, (Param, Literal)):
        return may_fit(kind, target) or _is_path(source, kind, target)
    return linkable(kind, target)


def _is_path(source: Source, kind: PortType, target: PortType) -> bool:
    return (
        isinstance(source, (Param, Literal))
        and is_text(kind)
        and Path in target.alternatives
        and str not in target.alternatives
    )


def _plain_texts(tree: Tree) -> Iterator[Scalar]:
    """The texts without quotes in a literal."""
    if isinstance(tree, Scalar):
        if tree.plain and isinstance(tree.value, str):
            yield tree
    elif isinstance(tree, SequenceTree):
        for item in tree.items:
            yield from _plain_texts(item)


def _is_link(tree: Scalar, scope: Scope) -> bool:
    try:
        resolve(tree, scope, "", guess=False)
    except Unresolved:
        return False
    return isinstance(tree.value, str)


def conversions(kind: PortType, target: PortType, nodes: Sequence[NodeSpec]) -> list[str]:
    """Ids of nodes that make a ``target`` from a ``kind``, those that say so most plainly first."""
    found: list[tuple[int, int, str]] = []
    for spec in nodes:
        takes = [p for p in spec.inputs.values() if p.required]
        accepting = [p for p in takes if not p.type.is_any and not narrows(kind, p.type)]
        gives = any(not o.is_any and not narrows(o, target) for o in spec.outputs.values())
        if accepting and gives and not kind.is_any and not target.is_any:
            exact = any(p.type == kind for p in accepting)
            found.append((not exact, len(takes), spec.id))
    return [id for _, _, id in sorted(found)[:CONVERSIONS]]


def ports_text(name: str, spec: NodeSpec) -> str:
    """The ports and settings that exist, and the closest name; ``?`` marks what may be left out."""
    named = [f"{p.name}{'' if p.required else '?'}" for p in spec.inputs.values()]
    settings = [f"{p.name}{'' if p.required else '?'}" for p in spec.settings.values()]
    known = {*spec.inputs, *spec.settings}
    hint = choices(name[:60], known, "ports", limit=0) if name not in known else ""
    guess = hint if hint.startswith("did you mean") else ""
    listed = f"ports: {', '.join(named) or 'none'}; settings: {', '.join(settings) or 'none'}"
    return f"{guess} {listed}".strip()
