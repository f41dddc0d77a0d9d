"""Links and literals of single ports: resolution, type checks and error messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TypeAlias

from guidegraph.graph.errors import Mark, Problem, suggest
from guidegraph.graph.language.bind_parameters import find_count_problem
from guidegraph.graph.language.syntax import Links, ParsedNode, list_links
from guidegraph.graph.language.yaml_tree import Scalar, Tree, shorten, to_python
from guidegraph.graph.language.yaml_tree import YamlSequence as SequenceTree
from guidegraph.graph.literals import convert_literal, is_text_type, to_absolute_path
from guidegraph.graph.node import NodeSpec, Registry
from guidegraph.graph.port import Port
from guidegraph.graph.resolution.link_rule import can_link, may_fit, may_pass, narrows
from guidegraph.graph.resolution.scope import GIVEN, Scope, TypedSource, Unresolved, resolve_link
from guidegraph.graph.sources import Literal, Many, Source, Sources
from guidegraph.graph.types import PortType, explain_mismatch, list_remedies, takes_literal

GUESSES = 100
CONVERSIONS = 3


Checks: TypeAlias = tuple[PortType, ...]
"""The types to check a value against at run time."""


@dataclass(frozen=True)
class LiteralOrigin:
    """The origin of a literal that reaches a port through parameters: its position, and the folder of its file."""

    mark: Mark
    base: Path
    path: str


@dataclass
class TypeRecord:
    """The types of a workflow's links and literals, by their positions.

    values: the type of the value that a link gives. ports: the type of the port that a link or a literal feeds; that
    of a port that takes a path if a literal reaches one through parameters of used workflows. scopes: the scope of each
    block, by the prefix of its operations' keys.
    """

    values: dict[Mark, PortType] = field(default_factory=dict)
    ports: dict[Mark, PortType] = field(default_factory=dict)
    scopes: dict[str, Scope] = field(default_factory=dict)


class PortResolver:
    """Resolves links and literals of ports, and collects their problems. types: filled with their types if not None."""

    def __init__(self, registry: Registry, problems: list[Problem], types: TypeRecord | None = None):
        self.registry = registry
        self.problems = problems
        self.types = types
        self.origins: dict[Literal, LiteralOrigin] = {}

    def report(self, mark: Mark, code: str, message: str, path: str) -> None:
        self.problems.append(Problem(mark, code, message, path))

    def find_source(self, link: Scalar, scope: Scope, path: str) -> TypedSource | None:
        try:
            typed = resolve_link(link, scope, path, guess=len(self.problems) < GUESSES)
        except Unresolved as error:
            if error.problem:
                self.problems.append(error.problem)
            return None
        if self.types is not None:
            self.types.values[link.mark] = typed.type
        return typed

    def check_links(self, node: ParsedNode, scope: Scope) -> None:
        """Report invalid links of a node whose ports are unknown."""
        for name, (_, links) in node.inputs.items():
            for i, link in enumerate(list_links(links)):
                self.find_source(link, scope, f"{node.path}.in.{shorten(name)}{'' if links is link else f'.{i}'}")

    def connect_links(self, port: Port, links: Links, scope: Scope, path: str) -> tuple[Sources, Checks] | None:
        """Sources for a port, and the types to check its value against at run time. None if a link is invalid."""
        if isinstance(links, Scalar):
            typed = self.find_source(links, scope, path)
            return None if typed is None else self.connect_source(typed, port, links, scope, path)
        sequence = port.type.sequence
        if sequence is None:
            message = f"port '{port.name}' takes one {port.type}, found a list of links"
            self.report(links.mark, "not-a-list", message, path)
            return None
        element = Port(port.name, None, sequence.element)
        connections: list[tuple[Source, Checks] | None] = []
        for i, link in enumerate(list_links(links)):
            link_path = f"{path}.{i}"
            typed = self.find_source(link, scope, link_path)
            connections.append(None if typed is None else self.connect_source(typed, element, link, scope, link_path))
        complete = [connection for connection in connections if connection is not None]
        if len(complete) < len(connections):
            return None
        checked = any(checks for _, checks in complete)
        return Many(tuple(source for source, _ in complete)), (port.type,) if checked else ()

    def connect_source(
        self, typed: TypedSource, port: Port, link: Scalar, scope: Scope, path: str
    ) -> tuple[Source, Checks] | None:
        """The source of a link for a port, and the types to check it against at run time. None if it does not fit."""
        source, kind = typed.source, _find_linked_type(typed)
        if self.types is not None:
            self.types.ports[link.mark] = port.type
        if not fits(typed, kind, port.type) or (port.annotation is None and _names_enum(typed, kind, port.type)):
            message = f"'{link.text}' gives {kind}, port '{port.name}' takes {port.type}"
            self.report(link.mark, "type-mismatch", message + self._suggest_remedy(kind, port.type, link, scope), path)
            return None
        if not _fits_actually(typed, port.type):
            message = f"'{link.text}' is {typed.actual_type} here, port '{port.name}' takes {port.type}"
            self.report(link.mark, "type-mismatch", message, path)
            return None
        if isinstance(source, Literal):
            literal = self._pass_literal(source, port, link, path)
            return None if literal is None else (literal, ())
        if _names_path(typed, kind, port.type):
            return source, ()
        return source, _list_checks(typed, port.type)

    def resolve_literal(self, port: Port, tree: Tree | None, base: Path, scope: Scope, path: str) -> Literal | None:
        """A validated literal for a port; relative paths are relative to ``base``. None if it is invalid."""
        if tree is None:
            return None
        if self.types is not None:
            self.types.ports[tree.mark] = port.type
        if not takes_literal(port.type) and not (port.type.optional and to_python(tree) is None):
            message = f"port '{port.name}' takes {port.type}, which cannot be a literal; wire it under 'in'"
            self.report(tree.mark, "not-a-literal", message, path)
            return None
        try:
            literal = Literal(convert_literal(port, to_python(tree), base))
        except ValueError as error:
            message = f"'{port.name}': {error}"
            if isinstance(tree, Scalar) and _is_link(tree, scope):
                message += "; a link goes under 'in'"
            self.report(tree.mark, "bad-value", message, path)
            return None
        if links := [text for text in _list_plain_texts(tree) if self._is_meant_as_link(text, port, scope)]:
            message = (
                f"'{port.name}': '{shorten(links[0].text)}' is a link, and under 'with' it would be read as text: "
                "put it under 'in' (quote it to make it text)"
            )
            self.report(links[0].mark, "bad-value", message, path)
            return None
        self.origins[literal] = LiteralOrigin(tree.mark, base, path)
        return literal

    def _is_meant_as_link(self, text: Scalar, port: Port, scope: Scope) -> bool:
        """Whether an unquoted text is certainly a link: ``params.NAME`` or similar, or an output of a node."""
        head, dot, output = text.text.partition(".")
        if not dot or not all(part.isidentifier() for part in output.split(".")):
            return False
        if _is_link(text, scope):
            return True
        if Path in port.type.alternatives:  # it may be a file name
            return False
        if head in ("params", "carry", "loop"):
            return True
        for enclosing in scope.chain():  # whether a node in scope, resolved or not, has this output
            node = enclosing.names.get(head) if isinstance(enclosing.names, Mapping) else None
            if isinstance(node, ParsedNode):
                spec = self.registry.nodes.get(node.use.text)
                return spec is not None and output in spec.outputs
        return False

    def _pass_literal(self, literal: Literal, port: Port, link: Scalar, path: str) -> Literal | None:
        """Validate a literal that reaches a port through a parameter of a sub-workflow; None if it does not fit."""
        origin = self.origins.get(literal) or LiteralOrigin(link.mark, Path.cwd(), path)
        if self.types is not None and port.type.is_path:
            self.types.ports[origin.mark] = port.type
        try:
            if port.annotation is not None:
                value = convert_literal(port, literal.value, origin.base)
            elif Path in port.type.alternatives and isinstance(literal.value, str):
                value = to_absolute_path(literal.value, origin.base)
            elif reason := explain_mismatch(literal.value, port.type):
                raise ValueError(reason)
            else:
                value = literal.value
        except ValueError as error:
            message = f"'{link.text}' does not fit port '{port.name}' ({path}, {link.mark}): {error}"
            self.report(origin.mark, "bad-value", message, origin.path)
            return None
        result = Literal(value)
        self.origins[result] = origin
        return result

    def check_count(self, source: Source, link: Scalar, path: str, *, steps: bool = False) -> bool:
        """Whether a loop can run over a source, as far as is known; a literal that does not fit is reported.

        steps: the source is the loop's number of steps.
        """
        reason = find_count_problem(source.value, steps=steps) if isinstance(source, Literal) else None
        if reason is None or not isinstance(source, Literal):
            return True
        origin = self.origins.get(source) or LiteralOrigin(link.mark, Path.cwd(), path)
        message = f"'{link.text}' does not fit the loop ({path}, {link.mark}): {reason}"
        self.report(origin.mark, "bad-value", message, origin.path)
        return False

    def _suggest_remedy(self, kind: PortType, target: PortType, link: Scalar, scope: Scope) -> str:
        """The end of a message: links or nodes that would fit."""
        if target.sequence is not None and can_link(kind, target.sequence.element):
            return f"; write a list: [{link.text}]"
        if kind.optional and can_link(kind._replace(optional=False), target):
            return ", and never None"
        head = link.text.partition(".")[0]
        entry = scope.find_node(head)
        outputs = entry.outputs.items() if entry else ()
        fitting = [f"{head}.{name}" for name, output in outputs if fits(output, output.type, target)]
        if fitting:
            return f"; of the same node, {' or '.join(fitting)} fits"
        if converters := find_converters(kind, target, list(self.registry.nodes.values())):
            return f"; nodes that convert: {', '.join(converters)}"
        return "".join(f"; {remedy}" for remedy in list_remedies(target))


def _list_checks(typed: TypedSource, target: PortType) -> Checks:
    """The types to check a value against at run time: the type of a parameter it passes through, and the port's."""
    actual, possible = typed.actual_type, typed.possible_type
    checks: list[PortType] = []
    if actual is not None and typed.type != target and typed.widest_type != typed.type:
        checks.append(typed.type)
    guaranteed = (possible,) if possible is not None else (typed.type,) if actual is None else (typed.type, actual)
    if all(map(narrows, guaranteed, repeat(target))):
        checks.append(target)
    return tuple(checks)


def accepts(target: PortType, typed: TypedSource) -> bool:
    """Whether a port of type ``target`` takes a link to a source."""
    return fits(typed, _find_linked_type(typed), target) and _fits_actually(typed, target)


def _find_linked_type(typed: TypedSource) -> PortType:
    """The type of a link: never None if its actual type is known not to be."""
    actual = typed.actual_type
    if typed.type.optional and actual is not None and not actual.optional and not actual.is_any:
        return typed.type._replace(optional=False)
    return typed.type


def _fits_actually(typed: TypedSource, target: PortType) -> bool:
    """Whether a value of the type that a sub-workflow's caller links, if it is known, may fit a port inside."""
    if typed.actual_type is None:
        return True
    if typed.is_given:
        return fits(typed, typed.actual_type, target)
    return may_pass(typed.actual_type, target)


def fits(typed: TypedSource, kind: PortType, target: PortType) -> bool:
    """Whether a source, taken to be of type ``kind``, may be linked to a port.

    The value of a parameter or literal is checked before the run, so one fitting alternative is enough. Its text may
    also name a path, or a value of an enumeration.
    """
    if isinstance(typed.source, GIVEN):
        return may_fit(kind, target) or _names_path(typed, kind, target) or _names_enum(typed, kind, target)
    return can_link(kind, target)


def _names_enum(typed: TypedSource, kind: PortType, target: PortType) -> bool:
    """Whether a port takes the text of a source as a value of an enumeration."""
    is_text = isinstance(typed.source, GIVEN) and is_text_type(kind)
    return is_text and target.takes_enum and not may_fit(kind, target)


def _names_path(typed: TypedSource, kind: PortType, target: PortType) -> bool:
    """Whether a port takes the text of a source as a path."""
    is_path = Path in target.alternatives and str not in target.alternatives
    return is_path and isinstance(typed.source, GIVEN) and is_text_type(kind)


def _list_plain_texts(tree: Tree) -> Iterator[Scalar]:
    """The unquoted texts in a literal."""
    if isinstance(tree, Scalar):
        if tree.plain and isinstance(tree.value, str):
            yield tree
    elif isinstance(tree, SequenceTree):
        for item in tree.items:
            yield from _list_plain_texts(item)


def _is_link(tree: Scalar, scope: Scope) -> bool:
    try:
        resolve_link(tree, scope, "", guess=False)
    except Unresolved:
        return False
    return isinstance(tree.value, str)


def find_converters(kind: PortType, target: PortType, nodes: Sequence[NodeSpec]) -> list[str]:
    """Ids of up to CONVERSIONS nodes that convert a ``kind`` to a ``target``, exact types and few ports first."""
    candidates: list[tuple[int, int, str]] = []
    for spec in nodes:
        required = [p for p in spec.inputs.values() if p.required]
        accepting = [p for p in required if not p.type.is_any and not narrows(kind, p.type)]
        produces = any(not o.is_any and not narrows(o, target) for o in spec.outputs.values())
        if accepting and produces and not kind.is_any and not target.is_any:
            exact = any(p.type == kind for p in accepting)
            candidates.append((not exact, len(required), spec.id))
    return [id for _, _, id in sorted(candidates)[:CONVERSIONS]]


def describe_ports(name: str, spec: NodeSpec) -> str:
    """List a node's ports and settings, after the closest name; ``?`` marks optional ones."""
    ports = [f"{p.name}{'' if p.required else '?'}" for p in spec.inputs.values()]
    settings = [f"{p.name}{'' if p.required else '?'}" for p in spec.settings.values()]
    names = {*spec.inputs, *spec.settings}
    hint = suggest(name[:60], names, "ports", limit=0) if name not in names else ""
    guess = hint if hint.startswith("did you mean") else ""
    listing = f"ports: {', '.join(ports) or 'none'}; settings: {', '.join(settings) or 'none'}"
    return f"{guess} {listing}".strip()
