"""Values that are given for ports: literals of a workflow, defaults and values of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guidegraph.graph.node import Port
from guidegraph.graph.paths import resolve
from guidegraph.graph.types import PortType, takes_literal
from guidegraph_runtime.admission import number_problem

STR = PortType((str,))


def literal_value(port: Port, value: object, base: Path) -> Any:
    """``value`` as the port's Python value; a relative path in it is one from ``base``. Raises ``ValueError``."""
    kind = port.type
    if value is None and kind.optional:
        return None
    if not takes_literal(kind):
        raise ValueError(f"expected {kind}, which only a node gives; found {type(value).__name__} {value!r:.80}")
    if (reason := number_problem(value, infinite=port.infinite)) is not None:
        raise ValueError(reason)
    return absolute(port.literal(value), base)


def absolute(value: Any, base: Path) -> Any:
    """The same value with each path in it absolute. Raises ``ValueError``."""
    if isinstance(value, Path):
        return absolute_path(value, base)
    if type(value) in (list, tuple) and any(isinstance(part, (Path, list, tuple)) for part in value):
        return type(value)(absolute(part, base) for part in value)
    return value


def absolute_path(text: str | Path, base: Path) -> Path:
    """The path that a text names, from the folder ``base``. Raises ``ValueError`` for one that cannot be."""
    if "\0" in str(text):
        raise ValueError("a path cannot hold a NUL character")
    try:
        return resolve(text, base)
    except (OSError, RuntimeError) as error:  # a name that is too long, a user who does not exist
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"'{str(text)[:60]}' is not a path: {reason}") from None


def is_text(kind: PortType) -> bool:
    """Whether a value of this type is a text, and so can name a path."""
    return kind.alternatives == STR.alternatives


def is_plain(value: object) -> bool:
    """Whether a value is such as YAML has: numbers, text, and lists and mappings of them."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))
