"""``@operation``: register a function under the id of the equivalent torch node."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Operation: TypeAlias = Callable[..., dict[str, Any]]
"""Maps ports and settings by name to outputs by name.

Values are NumPy arrays, Python numbers and texts, and lists of them; a structured value is the mapping of its fields.
Raises ``ValueError`` with the expected and the actual value.
"""

ShapeRule: TypeAlias = Callable[..., "tuple[int, ...] | None"]

_operations: dict[str, Operation] = {}
OPERATIONS: Mapping[str, Operation] = MappingProxyType(_operations)

_shapes_read: dict[str, tuple[str, ...]] = {}
SHAPES_READ: Mapping[str, tuple[str, ...]] = MappingProxyType(_shapes_read)
"""By operation, the ports of which it reads only shape and dtype, so that values on a device can stay there."""


_shapes: dict[str, ShapeRule] = {}
SHAPES: Mapping[str, ShapeRule] = MappingProxyType(_shapes)
"""By operation, if its result may be large: the rule for its shape from ports and settings before it is computed."""

_idle: dict[str, Mapping[str, str | None]] = {}
IDLE: Mapping[str, Mapping[str, str | None]] = MappingProxyType(_idle)
"""By operation, settings without effect: the port that overrides the setting when wired, or None for always."""


def operation(
    id: str,
    *,
    shapes_read: tuple[str, ...] = (),
    shape: ShapeRule | None = None,
    idle: Mapping[str, str | None] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as the operation `id`, and return it unchanged.

    Its positional parameters are ports and its keyword-only ones settings, with the node's names and defaults. The
    fields of a ``NamedTuple`` are the outputs; any other value is the output ``out``. shapes_read: ports of which only
    shape and dtype are read. shape: computes the shape of the result from some ports, which have a ``shape``, and
    settings by name; raises ``ValueError`` like the function, and returns None if the shape is unknown. idle: settings
    without effect, always (None) or if a port is wired.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(**arguments: Any) -> dict[str, Any]:
            try:
                bound = signature.bind(**arguments)
            except TypeError as error:
                raise ValueError(f"{id}: {error}; it takes {', '.join(signature.parameters)}") from None
            result: Any = function(*bound.args, **bound.kwargs)
            return result._asdict() if isinstance(result, tuple) and hasattr(result, "_asdict") else {"out": result}

        _operations[id], _shapes_read[id], _idle[id] = call, shapes_read, dict(idle or {})
        if shape is not None:
            _shapes[id] = shape
        return function

    return register
