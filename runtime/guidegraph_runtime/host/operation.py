"""``@operation``: a plain function under the id of the node that does the same in torch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Operation: TypeAlias = Callable[..., dict[str, Any]]
"""Ports and settings by name, to the outputs by name.

Values are NumPy arrays, Python's numbers and texts, and lists of them; a structured value is the mapping of its fields.
Raises ``ValueError`` that says what was expected and found.
"""

ShapeRule: TypeAlias = Callable[..., "tuple[int, ...] | None"]

_operations: dict[str, Operation] = {}
OPERATIONS: Mapping[str, Operation] = MappingProxyType(_operations)

_shapes_read: dict[str, tuple[str, ...]] = {}
SHAPES_READ: Mapping[str, tuple[str, ...]] = MappingProxyType(_shapes_read)
"""The ports of each operation of which it reads shape and dtype alone, so that values on a device may stay there."""


_shapes: dict[str, ShapeRule] = {}
SHAPES: Mapping[str, ShapeRule] = MappingProxyType(_shapes)
"""Of operations whose results may be large: their shape, from ports and settings, before anything is computed."""

_idle: dict[str, Mapping[str, str | None]] = {}
IDLE: Mapping[str, Mapping[str, str | None]] = MappingProxyType(_idle)
"""Settings of an operation that make no difference: the port that, when it is wired, takes over, or None for always."""


def operation(
    id: str,
    *,
    shapes_read: tuple[str, ...] = (),
    shape: ShapeRule | None = None,
    idle: Mapping[str, str | None] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as the operation `id` and leave it as it is.

    Its positional parameters are ports, its keyword-only ones settings, with the node's names and defaults. The fields
    of a ``NamedTuple`` are the outputs, any other value is the output ``out``. shapes_read: ports whose elements it
    does not read. shape: the shape of its result, from some of its ports, which have a ``shape``, and settings by
    name; it raises ``ValueError`` as the function does, and returns None where only computing tells. idle: settings
    that make no difference, always (None) or where a port is wired.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(**given: Any) -> dict[str, Any]:
            try:
                bound = signature.bind(**given)
            except TypeError as error:
                raise ValueError(f"{id}: {error}; it takes {', '.join(signature.parameters)}") from None
            result: Any = function(*bound.args, **bound.kwargs)
            return result._asdict() if isinstance(result, tuple) and hasattr(result, "_asdict") else {"out": result}

        _operations[id], _shapes_read[id], _idle[id] = call, shapes_read, dict(idle or {})
        if shape is not None:
            _shapes[id] = shape
        return function

    return register
