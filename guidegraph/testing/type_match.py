"""Whether a value matches a type in depth: fields of structured values and NamedTuples, and elements of sequences."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from guidegraph.graph.types import (
    PortType,
    SequenceOf,
    describe_value,
    explain_mismatch,
    is_tensor,
    structured_types,
    to_port_type,
)


def why_mismatched(value: Any, kind: PortType) -> str | None:
    """Why a value does not match a type, naming the wrong element; None if it matches.

    Of a lazy sequence only the first and the last element are examined.
    """
    if reason := explain_mismatch(value, kind):
        return reason
    for location, element, inner in _elements(value, kind):
        if reason := why_mismatched(element, inner):
            return f"{location}: {reason}"
    return _find_wrong_field(value)


def _elements(value: Any, kind: PortType) -> Iterator[tuple[str, Any, PortType]]:
    """The elements of a value, each with its name and its type."""
    fields = _fields(value)
    if fields:
        hints = typing.get_type_hints(type(value), include_extras=True)
        yield from ((f"field '{name}'", getattr(value, name), to_port_type(hints.get(name, Any))) for name in fields)
        return
    element = kind.sequence.element if kind.sequence is not None else None
    if element is None or isinstance(value, str) or not isinstance(value, Sequence) or not len(value):
        return
    concrete = isinstance(value, (list, tuple))
    indices = range(len(value)) if concrete else sorted({0, len(value) - 1})
    yield from ((f"entry {i}", value[i], element) for i in indices)


def _fields(value: Any) -> list[str]:
    """The names of the fields of a NamedTuple or of a structured value."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value._fields)
    if type(value) in structured_types().values():
        return [field.name for field in dataclasses.fields(value)]
    return []


def _find_wrong_field(value: Any) -> str | None:
    """Why a field lacks its declared axes, or is not among the choices of its ``Literal``; None if all are right.

    In place of a tensor with axes a vector or a number is accepted too. A sampler's state, for instance, starts as one
    zero per slot, and gets the axes of a sample with the first step.
    """
    declared: Mapping[str, Sequence[str | int]] = getattr(type(value), "leaf_axes", {})
    names = _fields(value)
    for name in names:
        field_value = getattr(value, name)
        if is_tensor(field_value) and name in declared and field_value.ndim not in (0, 1, len(declared[name])):
            axes = ", ".join(map(str, declared[name]))
            return f"field '{name}': expected axes ({axes}), found {describe_value(field_value)}"
    hints = typing.get_type_hints(type(value), include_extras=True) if names else {}
    for name in names:
        choices = typing.get_args(hints.get(name)) if typing.get_origin(hints.get(name)) is typing.Literal else ()
        if choices and getattr(value, name) not in choices:
            expected = ", ".join(map(repr, choices))
            return f"field '{name}': expected one of {expected}, found {getattr(value, name)!r:.40}"
    return None


def why_lacking(value: Any, kind: PortType) -> str | None:
    """Why a model does not satisfy a protocol; None if it does. A function satisfies a callable protocol."""
    if value is None or not kind.alternatives:
        return None
    protocols = [a for a in kind.alternatives if not isinstance(a, SequenceOf) and getattr(a, "_is_protocol", False)]
    checked: list[Any] = [p for p in protocols if getattr(p, "_is_runtime_protocol", False)]
    if len(protocols) < len(kind.alternatives) or len(checked) < len(protocols):
        return None
    return None if any(isinstance(value, p) for p in checked) else f"{describe_value(value)} lacks methods of {kind}"
