"""Kinds of values that ports take: models, tensors, structured values or plain data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.graph.types import PortType, SequenceOf, Tensor, structured_types

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
