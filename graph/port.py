"""Input ports and settings: the literals and values that they take."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from guidegraph.graph.types import PortType, SequenceOf, Tensor, is_tensor, structured_types
from guidegraph.graph.values.simple_values import UNDECIDED, Converter, make_converter

if TYPE_CHECKING:
    from pydantic import TypeAdapter

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Port:
    """An input port or a setting of a node."""

    name: str
    annotation: Any
    type: PortType
    default: Any = REQUIRED
    setting: bool = False
    infinite: bool = False
    """Whether infinities are valid; true if the default is infinite."""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """pydantic's validator for the annotation."""
        from pydantic import ConfigDict, TypeAdapter

        try:
            return TypeAdapter(self.annotation, config=ConfigDict(arbitrary_types_allowed=True))
        except Exception:  # a type that carries a configuration of its own, such as a model or a dataclass
            return TypeAdapter(self.annotation)

    @cached_property
    def convert_simple(self) -> Converter:
        """The function that converts valid values of a simple annotation, so that most workflows need no pydantic."""
        return make_converter(self.annotation) or (lambda value: UNDECIDED)

    def literal(self, value: object) -> object:
        """Convert a YAML or command-line literal to this port's Python type.

        The only implicit conversions are int to float and string to path. Raises ``ValueError`` with the expected
        and the actual value.
        """
        if isinstance(value, Path):
            value = str(value)
        if (converted := self.convert_simple(value)) is not UNDECIDED:
            return converted
        import json

        from pydantic import ValidationError

        try:
            return self.adapter.validate_json(json.dumps(value), strict=True)
        except (ValidationError, TypeError) as error:
            raise ValueError(_explain(error, value, self.type)) from None

    def check(self, value: object) -> object:
        """Validate the value of a linked setting. Raises ``ValueError``; tensors are returned unchecked."""
        if is_tensor(value):
            return value
        if (converted := self.convert_simple(value)) is not UNDECIDED:
            return converted
        from pydantic import ValidationError

        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(_explain(error, value, self.type)) from None


def read_ports(
    function: Callable[..., Any], hints: Mapping[str, Any], kinds: Mapping[str, PortType]
) -> tuple[dict[str, Port], dict[str, Port]]:
    """The input ports and the settings of a function with these annotations and port types, by its signature.

    Raises ``TypeError`` for a signature that has no schema.
    """
    inputs: dict[str, Port] = {}
    settings: dict[str, Port] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"*{name} has no schema: use a Sequence[T] port")
        if name not in hints:
            raise TypeError(f"parameter '{name}' needs a type annotation")
        setting = parameter.kind is parameter.KEYWORD_ONLY
        infinite = isinstance(parameter.default, float) and math.isinf(parameter.default)
        port = Port(name, hints[name], kinds[name], parameter.default, setting, infinite)
        (settings if setting else inputs)[name] = port
    return inputs, settings


def _explain(error: Exception, value: object, expected: PortType) -> str:
    details = error.errors() if hasattr(error, "errors") else []
    places: dict[str, str] = {}
    for detail in details:
        message, place = str(detail["msg"]), "".join(f"[{part}]" for part in detail["loc"] if isinstance(part, int))
        if "tensor" not in message:
            places[message] = places.get(message) or place
    reasons = [f"{message} (element {place})" if place else message for message, place in places.items()]
    start = "Input should be "
    if reasons and " | " in str(expected) and all(reason.startswith(start) for reason in reasons):
        reasons = [start + ", or ".join(reason.removeprefix(start) for reason in reasons)]
    reason = "; ".join(reasons) or f"expected {expected}"
    return f"{reason}; found {type(value).__name__} {value!r:.80}"


PortKind: TypeAlias = Literal["model", "plain", "structured", "tensor", "unknown"]

_PLAIN = (bool, int, float, str, bytes, list, dict, Path, Enum)
_MODULE = "torch.nn.modules.module.Module"


def port_kinds(port: PortType) -> set[PortKind]:
    """The kinds of values that a port may take."""
    result: set[PortKind] = set()
    for alternative in port.alternatives:
        result |= port_kinds(alternative.element) if isinstance(alternative, SequenceOf) else {_classify(alternative)}
    return result


def _classify(cls: type) -> PortKind:
    if Tensor in cls.__mro__:
        return "tensor"
    if getattr(cls, "_is_protocol", False) or any(f"{c.__module__}.{c.__name__}" == _MODULE for c in cls.__mro__):
        return "model"
    if cls in structured_types().values():
        return "structured"
    return "plain" if issubclass(cls, _PLAIN) else "unknown"
