"""Conversion of literals to port values: literals of a workflow, defaults and parameter values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guidegraph.graph.paths import resolve_path
from guidegraph.graph.port import Port
from guidegraph.graph.types import PortType, takes_literal
from guidegraph_runtime.admission import find_number_problem

STR = PortType((str,))


def convert_literal(port: Port, value: object, base: Path) -> Any:
    """Convert a literal to the port's Python type; relative paths are relative to ``base``. Raises ``ValueError``."""
    kind = port.type
    if value is None and kind.optional:
        return None
    if not takes_literal(kind):
        raise ValueError(f"expected {kind}, which only a node can make; found {type(value).__name__} {value!r:.80}")
    if not isinstance(value, (str, int)) and (reason := find_number_problem(value, infinite=port.infinite)) is not None:
        raise ValueError(reason)
    converted = port.literal(value)
    return converted if isinstance(converted, (str, int, float)) else _make_absolute(converted, base)


def _make_absolute(value: Any, base: Path) -> Any:
    """The value with every path in it made absolute. Raises ``ValueError``."""
    if isinstance(value, Path):
        return to_absolute_path(value, base)
    if type(value) in (list, tuple) and any(isinstance(element, (Path, list, tuple)) for element in value):
        return type(value)(_make_absolute(element, base) for element in value)
    return value


def to_absolute_path(text: str | Path, base: Path) -> Path:
    """The absolute path that ``text`` names, relative to ``base``. Raises ``ValueError`` for an invalid path."""
    if "\0" in str(text):
        raise ValueError("a path cannot hold a NUL character")
    try:
        return resolve_path(text, base)
    except (OSError, RuntimeError) as error:  # the name is too long, or the user does not exist
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"'{str(text)[:60]}' is not a path: {reason}") from None


def is_text_type(kind: PortType) -> bool:
    """Whether the type is text, so that its values can name a path."""
    return kind.alternatives == STR.alternatives


def is_plain_data(value: object) -> bool:
    """Whether a value consists of YAML's types only: null, booleans, numbers, text, lists and mappings."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain_data, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain_data, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))
