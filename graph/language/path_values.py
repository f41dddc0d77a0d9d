"""Texts that name files: parameters and constants that feed a path, directly or in a roundabout way.

A value feeds a port through a link, and also behind a choice, as an item of a list that a loop runs over, or as the
start of a carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from guidegraph.graph.errors import Problem
from guidegraph.graph.ir import Op, Parameter, walk
from guidegraph.graph.language.syntax import ParsedWorkflow
from guidegraph.graph.literals import to_absolute_path
from guidegraph.graph.origins import list_origins_of_link, trace_origins
from guidegraph.graph.sources import Literal, Param, Source
from guidegraph.graph.types import PortType, SequenceOf, to_annotation


class PortUse(NamedTuple):
    """A port that a value feeds. location: for messages. kind: the type that the whole value needs for the port."""

    location: str
    kind: PortType


Uses = Mapping[Source, Sequence[PortUse]]


def list_uses(ops: Mapping[str, Op]) -> Uses:
    """The ports that each parameter feeds, and those that each constant feeds in a roundabout way."""
    origins = trace_origins(ops, items=True, starts=True)
    uses: dict[Source, list[PortUse]] = {}
    for op in walk(ops):
        for name, link, kind in _list_links(op):
            if link not in origins and not isinstance(link, Param):
                continue
            location = f"nodes.{op.key}.{name}"
            for source, depth in list_origins_of_link(op, name.removeprefix("in."), link, origins):
                if isinstance(source, Param) or (isinstance(source, Literal) and source is not link):
                    nested = kind
                    for _ in range(depth):  # a loop takes an item of it
                        nested = PortType((SequenceOf(nested),))
                    uses.setdefault(source, []).append(PortUse(location, nested))
    return uses


def _list_links(op: Op) -> list[tuple[str, Source, PortType]]:
    """The links of an operation, each with its path in the operation and the type of its port."""
    if op.has_blocks:
        return [(f"{option}.path", folder, port.type) for option, (folder, port) in op.folders().items()]
    return [(f"in.{port.name}", source, port.type) for source, port in op.linked_ports()]


def convert_path_parameters(
    workflow: ParsedWorkflow, params: Mapping[str, Parameter], uses: Uses, problems: list[Problem]
) -> dict[str, Parameter]:
    """Convert the texts of parameters that feed paths to paths; defaults are relative to the workflow's file.

    A parameter that is invalid is left out, and its problem added to ``problems``.
    """
    result = dict(params)
    for name, parameter in params.items():
        ports = uses.get(Param(name), ())
        kind = narrow_to_paths(parameter.port.type, [use.kind for use in ports])
        if kind == parameter.port.type:
            continue
        path = f"params.{name}"
        if clash := _find_clash(parameter.port.type, ports):
            message = f"'{name}' is a path for {clash[0]} and text for {clash[1]}: declare two parameters"
            problems.append(Problem(parameter.mark, "type-mismatch", message, path))
            del result[name]
            continue
        try:
            default = convert_texts(parameter.default, [use.kind for use in ports], parameter.base)
        except ValueError as error:
            message = f"the default does not fit: {error}"
            problems.append(Problem(workflow.default_mark(name), "bad-value", message, f"{path}.default"))
            del result[name]
            continue
        port = replace(parameter.port, annotation=to_annotation(kind), type=kind)
        result[name] = replace(parameter, port=port, default=default)
    return result


def narrow_to_paths(kind: PortType, ports: Sequence[PortType]) -> PortType:
    """The type of a value that feeds ports of these types, with paths for texts that one of them takes as paths."""
    naming = [port for port in ports if names_paths(port)]
    if not naming:
        return kind
    if kind.is_any:
        return naming[0]
    alternatives: list[type | SequenceOf] = []
    for alternative in kind.alternatives:
        if isinstance(alternative, SequenceOf):
            alternative = SequenceOf(narrow_to_paths(alternative.element, _list_elements(naming)))
        elif alternative is str and any(map(_is_path, naming)):
            alternative = Path
        alternatives.append(alternative)
    return PortType(tuple(dict.fromkeys(alternatives)), kind.optional)


def names_paths(port: PortType) -> bool:
    """Whether a port takes a text, or a text in a list, as a path."""
    return _is_path(port) or any(map(names_paths, _list_elements([port])))


def convert_texts(value: Any, ports: Sequence[PortType], base: Path) -> Any:
    """A value with its texts converted to absolute paths where one of the ports that it feeds takes paths.

    Raises ``ValueError`` for a text that is not a path.
    """
    if isinstance(value, str):
        return to_absolute_path(value, base) if any(map(_is_path, ports)) else value
    if not isinstance(value, (list, tuple)) or not (elements := _list_elements(ports)):
        return value
    return type(value)(convert_texts(element, elements, base) for element in value)


def _is_path(kind: PortType) -> bool:
    return Path in kind.alternatives and str not in kind.alternatives


def _list_elements(ports: Sequence[PortType]) -> list[PortType]:
    """The types of the elements of those ports that take lists."""
    return [a.element for port in ports for a in port.alternatives if isinstance(a, SequenceOf)]


def _find_clash(kind: PortType, uses: Sequence[PortUse]) -> tuple[str, str] | None:
    """The locations of a port that takes a text of the value as a path, and of one that takes it as text."""
    paths = [use.location for use in uses if _is_path(use.kind)]
    texts = [use.location for use in uses if not _is_path(use.kind) and not use.kind.is_any]
    if paths and texts and ({str, object} & {*kind.alternatives}):
        return paths[0], texts[0]
    inner = [PortUse(use.location, element) for use in uses for element in _list_elements([use.kind])]
    elements = [kind] if kind.is_any else _list_elements([kind])
    return next((clash for element in elements if inner and (clash := _find_clash(element, inner))), None)
