"""Examples by port type: the registered ones, and those made from a type's fields."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any

from guidegraph.graph.port import Port
from guidegraph.graph.types import PortType, SequenceOf, Tensor, to_port_type, type_name
from guidegraph_testing.case import NoExample
from guidegraph_testing.examples.sizes import BATCH, TEXTS, Maker, draw_normal, make_integers

NUMBERS: tuple[Any, ...] = (2, 1, 0, 3, 0.5, 0.25)
"""Tried in order for a setting without a default, until one is valid."""

_registered: dict[type, Maker] = {}


def register_example(cls: type, make: Maker) -> None:
    """Register examples of a port type: `make(seed)` returns a different one for each seed."""
    _registered[cls] = make


def example(kind: Any, seed: int = 0) -> Any:
    """An example of a port type, a class or an annotation. Raises ``LookupError`` for a type without one."""
    target = kind if isinstance(kind, PortType) else to_port_type(kind)
    for alternative in sorted(target.alternatives, key=lambda a: not isinstance(a, SequenceOf)):
        try:
            return (
                _of_sequence(alternative, seed) if isinstance(alternative, SequenceOf) else _of_class(alternative, seed)
            )
        except LookupError:
            continue
    if target.optional:
        return None
    raise LookupError(f"there is no example of {target}")


def make_example(node: str, port: Port, seed: int) -> Any:
    """A valid example for a port or a setting. Raises ``NoExample``."""
    try:
        values = list(_literals(port)) if port.setting else [example(port.type, seed)]
    except LookupError:
        values = []
    for value in values:
        try:
            return port.check(value) if port.setting else value
        except ValueError:
            continue
    kind, field = ("setting", "settings") if port.setting else ("port", "inputs")
    raise NoExample(
        node,
        f"an example of {port.type} for {kind} '{port.name}'",
        "the kit has none",
        f"give one: NodeCase(…, {field}={{'{port.name}': …}}), or for every node register_example({port.type}, make)",
    )


def _literals(port: Port) -> list[Any]:
    """Values to try for a setting without a default."""
    choices = typing.get_args(port.annotation) if typing.get_origin(port.annotation) is typing.Literal else ()
    values = list(choices)
    for alternative in port.type.alternatives:
        if alternative in (int, float):
            values += NUMBERS
        elif isinstance(alternative, SequenceOf):
            number = {int, float} & set(alternative.element.alternatives)
            values += [[n] * size for n in NUMBERS for size in (2, 1, 3)] if number else [_of_sequence(alternative, 0)]
        else:
            values.append(_of_class(alternative, 0))
    return values


def _of_sequence(kind: SequenceOf, seed: int) -> Any:
    if str in kind.element.alternatives:
        return [TEXTS[(seed + i) % len(TEXTS)] for i in range(BATCH)]
    return [example(kind.element, 100 * seed + i) for i in range(2)]


def _of_class(cls: type, seed: int) -> Any:
    _register_builtin()
    for base in cls.__mro__ if Tensor in cls.__mro__ else (cls,):
        if base in _registered:
            make = _registered[base]
            return make(seed) if base is cls or getattr(cls, "axes", None) is None else _tensor(cls, seed)
    if Tensor in cls.__mro__:
        return _tensor(cls, seed)
    if issubclass(cls, Enum):
        return next(iter(cls))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = typing.get_type_hints(cls, include_extras=True)
        return cls(*(example(hints[name], seed + 10 * i) for i, name in enumerate(cls._fields)))
    if dataclasses.is_dataclass(cls):
        return _of_dataclass(cls, seed)
    raise LookupError(type_name(cls))


def _of_dataclass(cls: Any, seed: int) -> Any:
    """A structured value, with examples for tensor fields (in their declared axes) and fields without a default."""
    hints = typing.get_type_hints(cls, include_extras=True)
    axes: Mapping[str, Sequence[str | int]] = getattr(cls, "leaf_axes", {})
    values: dict[str, Any] = {}
    for i, field in enumerate(dataclasses.fields(cls)):
        if field.name in axes:
            values[field.name] = draw_normal(axes[field.name], seed + 10 * i)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            choices = typing.get_args(hints[field.name])
            literal = typing.get_origin(hints[field.name]) is typing.Literal
            values[field.name] = choices[0] if literal else example(hints[field.name], seed + 10 * i)
    return cls(**values)


def _tensor(cls: Any, seed: int) -> Any:
    axes = cls.axes or ("B", "C", "H", "W")
    return make_integers(axes, seed) if cls.integer else draw_normal(axes, seed)


@cache
def _register_builtin() -> None:
    """Register the examples of the built-in types that have none yet."""
    from guidegraph_testing.examples.builtin import MAKERS

    for cls, make in MAKERS.items():
        _registered.setdefault(cls, make)
