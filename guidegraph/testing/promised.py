"""Whether a value is of a type all through: fields of structures and NamedTuples, and entries of sequences too."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guidegraph.graph.types import PortType, SequenceOf, describe, is_tensor, mismatch, port_type, structured_types


def wrong_inside(value: Any, kind: PortType) -> str | None:
    """Why a value is not of a type, told of the part that is wrong; None where it is.

    Of a sequence that is made on demand, the first and the last entry are looked at.
    """
    if reason := mismatch(value, kind):
        return reason
    for where, part, inner in _parts(value, kind):
        if reason := wrong_inside(part, inner):
            return f"{where}: {reason}"
    return _wrong_axes(value) or _wrong_choice(value)


def _parts(value: Any, kind: PortType) -> Iterator[tuple[str, Any, PortType]]:
    """The parts of a value, each with its name and its type."""
    fields = _fields(value)
    if fields:
        hints = typing.get_type_hints(type(value), include_extras=True)
        yield from ((f"field '{name}'", getattr(value, name), port_type(hints.get(name, Any))) for name in fields)
        return
    element = kind.sequence.element if kind.sequence is not None else None
    if element is None or isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        return
    whole = isinstance(value, (list, tuple))
    indices = range(len(value)) if whole else sorted({0, len(value) - 1})
    yield from ((f"entry {i}", value[i], element) for i in indices)


def _fields(value: Any) -> list[str]:
    """The names of the fields of a NamedTuple or of a structured value."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value._fields)
    if type(value) in structured_types().values():
        return [field.name for field in dataclasses.fields(value)]
    return []


def _wrong_axes(value: Any) -> str | None:
    """Tensors of a structured value that have not the axes that its type declares; a vector or a number may stand in.

    So a sampler's state begins with as many zeros as it has slots, and gets the axes of a sample with the first step.
    """
    declared: Mapping[str, Sequence[str | int]] = getattr(type(value), "leaf_axes", {})
    for name in _fields(value):
        part = getattr(value, name)
        if is_tensor(part) and name in declared and part.ndim not in (0, 1, len(declared[name])):
            return f"field '{name}': expected axes ({', '.join(map(str, declared[name]))}), found {describe(part)}"
    return None


def _wrong_choice(value: Any) -> str | None:
    """Fields of a structured value that are none of the choices of their ``Literal``."""
    names = _fields(value)
    hints = typing.get_type_hints(type(value), include_extras=True) if names else {}
    for name in names:
        choices = typing.get_args(hints.get(name)) if typing.get_origin(hints.get(name)) is typing.Literal else ()
        if choices and getattr(value, name) not in choices:
            return (
                f"field '{name}': expected one of {', '.join(map(repr, choices))}, found {getattr(value, name)!r:.40}"
            )
    return None


def lacks(value: Any, kind: PortType) -> str | None:
    """What of a protocol a model lacks; a function where the protocol is a call is one."""
    if value is None or not kind.alternatives:
        return None
    protocols = [a for a in kind.alternatives if not isinstance(a, SequenceOf) and getattr(a, "_is_protocol", False)]
    checked: list[Any] = [p for p in protocols if getattr(p, "_is_runtime_protocol", False)]
    if len(protocols) < len(kind.alternatives) or len(checked) < len(protocols):
        return None
    return None if any(isinstance(value, p) for p in checked) else f"{describe(value)} lacks methods of {kind}"
