"""Which calls run on the host under a memory budget: those that make or save models, told by the types of their ports.

So a checkpoint's parts come to the device one after the other, when they are first read, and never all at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.graph import ir
from guidegraph.graph.types import PortType, SequenceOf, Tensor, is_tensor, structured_types

Kind: TypeAlias = Literal["model", "plain", "structured", "tensor", "unknown"]

_PLAIN = (bool, int, float, str, bytes, list, dict, Path, Enum)
_MODULE = "torch.nn.modules.module.Module"


def kinds(port: PortType) -> set[Kind]:
    """What values of a port may be: models, numbers and texts, structured values, tensors, or one cannot tell."""
    result: set[Kind] = set()
    for alternative in port.alternatives:
        result |= kinds(alternative.element) if isinstance(alternative, SequenceOf) else {_kind(alternative)}
    return result


def _kind(cls: type) -> Kind:
    if Tensor in cls.__mro__:
        return "tensor"
    if getattr(cls, "_is_protocol", False) or any(f"{c.__module__}.{c.__name__}" == _MODULE for c in cls.__mro__):
        return "model"
    if cls in structured_types().values():
        return "structured"
    return "plain" if issubclass(cls, _PLAIN) else "unknown"


def is_hosted(op: object) -> bool:
    """Whether a call makes models and no tensors, or reads models and, marked ``host``, gives numbers and texts alone.

    The first kind (``checkpoint.load``, ``lora.apply``) reads models and plain values, or structured and plain values,
    such as a schedule: with both it may compute. The second kind (``model.save``) reads no tensors. What the types do
    not tell is computed on the device, and so are loops.
    """
    if not isinstance(op, ir.Call):
        return False
    output_kinds = _all_kinds(op.outputs.values())
    input_kinds = _all_kinds(
        port.type for name, port in (*op.spec.inputs.items(), *op.spec.settings.items()) if _is_fed(op, name)
    )
    if "tensor" in output_kinds or "tensor" in input_kinds:
        return False
    if "model" in output_kinds:
        return input_kinds <= {"model", "plain"} or input_kinds <= {"structured", "plain"}
    return op.spec.host and output_kinds <= {"plain"} and "model" in input_kinds


def _all_kinds(ports: Iterable[PortType]) -> set[Kind]:
    return {kind for port in ports for kind in kinds(port)}


def _is_fed(op: ir.Call, name: str) -> bool:
    """Whether a port is linked, or a setting has a value that is not written in the workflow."""
    if name in op.inputs:
        return True
    value = op.settings.get(name)
    sources = value if isinstance(value, tuple) else () if value is None else (value,)
    return any(not isinstance(source, ir.Literal) or is_tensor(source.value) for source in sources)
