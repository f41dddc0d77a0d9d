"""``@operation``: the declaration of a computation between graphs, which is also a node of the engine.

An operation is declared once: its signature with ranges and defaults, docstring, and rule for its shape. The engine
derives its node from this, so only what differs in torch is written there.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, ParamSpec, TypeAlias, TypeVar

from guidegraph_runtime.declare.settings import Check, make_check

P = ParamSpec("P")
R = TypeVar("R")

ShapeRule: TypeAlias = Callable[..., "tuple[int | None, ...] | None"]


@dataclass(frozen=True, eq=False)
class HostOperation:
    """An operation. A call takes ports and settings by name and returns outputs by name.

    Values are NumPy arrays, Python numbers and texts, and lists of them; a structured value is the mapping of its
    fields. A call raises ``ValueError`` with the expected and the actual value. The attributes are those of
    `operation`.
    """

    id: str
    function: Callable[..., Any]
    shape: ShapeRule | None = None
    shapes_read: tuple[str, ...] = ()
    idle: Mapping[str, str | None] = field(default_factory=dict)
    output_help: str | Mapping[str, str] = ""
    copies: str = ""
    signature: inspect.Signature = field(init=False)
    """Of the function: ports as positional parameters, settings as keyword-only ones."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "signature", inspect.signature(self.function))

    @property
    def __signature__(self) -> inspect.Signature:
        return self.signature

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The annotations by parameter, and ``return``, with the marks of `settings`."""
        return typing.get_type_hints(self.function, include_extras=True)

    @cached_property
    def _checks(self) -> dict[str, Check]:
        names = [p.name for p in self.signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        checks = {name: make_check(self.hints[name]) for name in names}
        return {name: check for name, check in checks.items() if check is not None}

    def check_settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as plain Python values. Raises ``ValueError`` for one out of its range."""
        checks = self._checks
        return {name: checks[name](name, value) if name in checks else value for name, value in values.items()}

    def __call__(self, **arguments: Any) -> dict[str, Any]:
        try:
            bound = self.signature.bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{self.id}: {error}; it takes {', '.join(self.signature.parameters)}") from None
        result: Any = self.function(*bound.args, **self.check_settings(bound.kwargs))
        return result._asdict() if isinstance(result, tuple) and hasattr(result, "_asdict") else {"out": result}


_operations: dict[str, HostOperation] = {}
OPERATIONS: Mapping[str, HostOperation] = MappingProxyType(_operations)


def shapes_read_by(id: str) -> tuple[str, ...]:
    """The ports of which an operation reads only shape and dtype; () for an unknown operation."""
    return OPERATIONS[id].shapes_read if id in OPERATIONS else ()


def setting_copied_by(id: str) -> str:
    """The setting that an operation's result copies its numbers from; "" if there is none."""
    return OPERATIONS[id].copies if id in OPERATIONS else ""


def drawing_operations() -> list[str]:
    """The operations that draw random numbers: those that read no values of their ports, but shapes."""
    return [id for id, declared in OPERATIONS.items() if declared.shapes_read]


def operation(
    id: str,
    *,
    shapes_read: tuple[str, ...] = (),
    shape: ShapeRule | None = None,
    idle: Mapping[str, str | None] | None = None,
    output_help: str | Mapping[str, str] = "",
    copies: str = "",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function as the operation `id`; return it with its settings checked.

    Its positional parameters are ports and its keyword-only ones settings. A setting that is a flag, a number or
    a word is checked by its annotation before the call (`settings.make_check`). The fields of a ``NamedTuple`` are the
    outputs; any other value is the output ``out``.

    shapes_read: ports of which only shape and dtype are read, so that values on a device can stay there.
    shape: for a result that may be large: computes its shape from some ports, which have a ``shape``, and settings by
        name; an unknown size is None. Raises ``ValueError`` like the function; returns None if the shape is unknown.
    idle: settings without effect: the port that overrides the setting when wired, or None for always.
    output_help: describes the result, or by name its outputs and their fields, to a reader of an exported graph.
    copies: the setting that the result copies its numbers from, so that it has the bounds of the graphs that read
        these.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        declared = HostOperation(id, function, shape, shapes_read, dict(idle or {}), output_help, copies)
        _operations[id] = declared

        @functools.wraps(function)
        def call_checked(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **declared.check_settings(kwargs))

        return call_checked

    return register
