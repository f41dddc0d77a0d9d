"""Declared parameters of a workflow: their types and defaults."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from guidegraph.graph.errors import Mark, Problem, suggest
from guidegraph.graph.ir import Parameter
from guidegraph.graph.language.syntax import ParsedParam, ParsedWorkflow
from guidegraph.graph.language.yaml_tree import shorten, to_python
from guidegraph.graph.literals import convert_literal
from guidegraph.graph.node import Registry
from guidegraph.graph.port import REQUIRED, Port
from guidegraph.graph.types import Tensor, takes_literal, to_port_type

BASIC_TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "path": Path,
    "Path": Path,
    "list": list,
    "dict": dict,
    "any": Any,
    "Any": Any,
    "None": None,
    "null": None,
    "Scale": float | Tensor,
}
MAX_LIST_DEPTH = 16


def resolve_parameters(workflow: ParsedWorkflow, registry: Registry, problems: list[Problem]) -> dict[str, Parameter]:
    """Resolve the declared parameters; returns the valid ones, and adds the others' problems to ``problems``."""
    parameters: dict[str, Parameter] = {}
    for name, parsed in workflow.params.items():
        parameter = _resolve_parameter(parsed, workflow.path.parent, registry, problems) if parsed else None
        if parameter is not None:
            parameters[name] = parameter
    return parameters


def _resolve_parameter(
    parsed: ParsedParam, base: Path, registry: Registry, problems: list[Problem]
) -> Parameter | None:
    def report(mark: Mark, code: str, message: str, key: str) -> None:
        problems.append(Problem(mark, code, message, f"params.{parsed.name}{key}"))

    default = to_python(parsed.default) if parsed.default is not None else None
    annotation: Any = Any if default is None else type(default)
    if parsed.type is not None:
        try:
            annotation = parse_annotation(parsed.type.text, registry)
        except AnnotationError as error:
            report(parsed.type.mark, error.code, str(error), ".type")
            return None
        if parsed.default is not None and default is None:
            annotation = annotation if annotation is Any else annotation | None
    # The ports that it feeds decide whether it may be infinite.
    port = Port(parsed.name, annotation, to_port_type(annotation), REQUIRED, setting=True, infinite=True)
    if parsed.default is not None and default is not None:
        try:
            if not takes_literal(port.type):
                raise ValueError(f"a value of type {port.type} cannot be written in YAML; omit the default")
            default = convert_literal(port, default, base)
        except ValueError as error:
            report(parsed.default.mark, "bad-value", f"the default does not fit: {error}", ".default")
            return None
    return Parameter(parsed.name, port, default, parsed.default is None, parsed.help, parsed.mark, base)


class AnnotationError(ValueError):
    """Raised for an invalid type of a parameter. code: of the problem."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def parse_annotation(text: str, registry: Registry, depth: int = 0) -> Any:
    """Parse an annotation: ``int``, ``Image | None``, ``Sequence[int | float]``, ``list[str]``.

    depth: how many lists it is in. Raises ``AnnotationError`` for an unknown name, for a type whose only value is null,
    and for lists that nest too deeply.
    """
    if depth > MAX_LIST_DEPTH:
        raise AnnotationError("too-deep", f"the lists of a type nest at most {MAX_LIST_DEPTH} deep")
    alternatives = [_parse_simple_annotation(part.strip(), registry, depth) for part in _split_alternatives(text)]
    if Any in alternatives:
        return Any
    kinds = [alternative for alternative in alternatives if alternative is not None]
    if not kinds:
        message = f"expected a type that has values, such as 'int | None'; found '{shorten(text)}', which is only null"
        raise AnnotationError("bad-type", message)
    result = kinds[0]
    for kind in kinds[1:]:
        result = result | kind
    return result if len(kinds) == len(alternatives) else result | None


def _split_alternatives(text: str) -> list[str]:
    """Split text at each ``|`` outside brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _parse_simple_annotation(name: str, registry: Registry, depth: int) -> Any:
    for sequence in ("list[", "Sequence["):
        if name.startswith(sequence) and name.endswith("]"):
            return list[parse_annotation(name.removeprefix(sequence)[:-1], registry, depth + 1)]  # type: ignore[misc]
    if name in BASIC_TYPES:
        return BASIC_TYPES[name]
    if name in registry.types:
        return registry.types[name]
    enums = list_enums(registry)
    if name in enums:
        return enums[name]
    hint = suggest(name[:60], [*BASIC_TYPES, *registry.types, *enums], "types")
    raise AnnotationError("bad-type", f"unknown type '{shorten(name)}'; {hint}")


def list_enums(registry: Registry) -> dict[str, Any]:
    """The enumerations of texts that ports take, by name; a parameter of such a type is one of the texts.

    Names that are of several enumerations are left out.
    """
    annotations: dict[str, Any] = {}
    ports = [port for spec in registry.nodes.values() for port in spec.ports.values()]
    kinds = dict.fromkeys(kind for port in ports for kind in port.type.alternatives)
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    names = Counter(enum.__name__ for enum in enums)
    for enum in enums:
        texts = tuple(member.value for member in enum)
        if names[enum.__name__] == 1 and texts and all(isinstance(text, str) for text in texts):
            annotations[enum.__name__] = Literal[texts]
    return annotations
