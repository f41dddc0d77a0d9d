"""Calls that run on the CPU under a memory budget: those that make or save models, by the types of their ports.

The models of a checkpoint are then moved to the device one by one, when they are first read.
"""

from __future__ import annotations

from collections.abc import Iterable

from guidegraph.graph.ir import Call
from guidegraph.graph.port_kinds import PortKind, port_kinds
from guidegraph.graph.sources import Literal, list_sources
from guidegraph.graph.types import PortType, is_tensor


def loads_on_cpu(op: object) -> bool:
    """Whether a call makes models and no tensors, or reads models, is marked ``host`` and returns only plain values.

    Calls of the first kind (``checkpoint.load``, ``lora.apply``) read models and plain values, or structured and plain
    values such as a schedule; a call that reads both may compute, and runs on the device. Calls of the second kind
    (``model.save``) read no tensors. Loops, and calls whose types leave it open, run on the device.
    """
    if not isinstance(op, Call):
        return False
    output_kinds = _all_kinds(op.outputs.values())
    fed = {*op.inputs}
    for name, sources in op.settings.items():  # a setting counts if it has a value other than a plain literal
        if any(not isinstance(source, Literal) or is_tensor(source.value) for source in list_sources(sources)):
            fed.add(name)
    input_kinds = _all_kinds(port.type for name, port in op.spec.ports.items() if name in fed)
    if "tensor" in output_kinds or "tensor" in input_kinds:
        return False
    if "model" in output_kinds:
        return input_kinds <= {"model", "plain"} or input_kinds <= {"structured", "plain"}
    return op.spec.host and output_kinds <= {"plain"} and "model" in input_kinds


def _all_kinds(ports: Iterable[PortType]) -> set[PortKind]:
    return {kind for port in ports for kind in port_kinds(port)}
