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

_operations: dict[str, Operation] = {}
OPERATIONS: Mapping[str, Operation] = MappingProxyType(_operations)

_shapes_read: dict[str, tuple[str, ...]] = {}
SHAPES_READ: Mapping[str, tuple[str, ...]] = MappingProxyType(_shapes_read)
"""The ports of each operation of which it reads shape and dtype alone, so that values on a device may stay there."""


def operation(id: str, *, shapes_read: tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as the operation `id` and leave it as it is.

    Its positional parameters are ports, its keyword-only ones settings, with the node's names and defaults. The fields
    of a ``NamedTuple`` are the outputs, any other value is the output ``out``. shapes_read: ports whose elements it
    does not read.
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

        _operations[id], _shapes_read[id] = call, shapes_read
        return function

    return register
