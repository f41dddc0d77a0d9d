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


def operation(id: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as the operation `id` and leave it as it is.

    Its positional parameters are ports, its keyword-only ones settings, with the node's names and defaults. The fields
    of a ``NamedTuple`` are the outputs, any other value is the output ``out``.
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

        _operations[id] = call
        return function

    return register
