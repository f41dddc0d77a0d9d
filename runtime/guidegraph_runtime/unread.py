"""Values of a loop's body that nothing reads while a flag is as it is, so that they need not be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.device import on_host, shaped
from guidegraph_runtime.host import SHAPES_READ
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest_types import Operation

Flags: TypeAlias = tuple[tuple[str, bool], ...]
"""Names of values, and what each of them is."""


def unread_operations(loop: Loop, body: Sequence[Operation]) -> dict[str, Flags]:
    """By node, the operations whose only output parts alone read, and the flags with which none of them does.

    Only operations that are like one of their ports, so that zeros can stand in. Raises ``ValueError`` for flags that
    are none.
    """
    flags: dict[str, list[tuple[str, bool]]] = {}
    read = {*loop.next.values(), *loop.collect.values()}
    for operation in _nested(body):
        unread = _flags(operation)
        for at in operation.inputs.values():
            if at in unread:
                flags.setdefault(at, []).append(unread[at])
            else:
                read.add(at)
    return {
        one.node: tuple(flags[one.outputs[0]])
        for one in body
        if len(one.outputs) == 1 and one.outputs[0] in flags.keys() - read and _like(one) is not None
    }


def zeros_like(operation: Operation, values: Mapping[str, Any]) -> NDArray[np.float32]:
    """Zeros of the shape of the port that an operation is like."""
    name = _like(operation)
    assert name is not None
    return np.zeros(shaped(values[name]).shape, np.float32)


def hold(flags: Flags, values: Mapping[str, Any]) -> bool:
    """Whether all flags are so."""
    return all(name in values and bool(on_host(values[name])) is value for name, value in flags)


def _like(operation: Operation) -> str | None:
    """The name of the value whose shape alone an operation reads; ``None`` where there is none."""
    ports = SHAPES_READ.get(operation.op, ())
    return next((operation.inputs[port] for port in ports if port in operation.inputs), None)


def _flags(operation: Operation) -> dict[str, tuple[str, bool]]:
    """Of a part, the inputs that a flag makes unread."""
    unread = operation.settings.get("unread", {}) if operation.op == "part" else {}
    if not isinstance(unread, dict):
        raise ValueError(f"'unread' of a part names inputs; found {unread!r:.80}")
    flags: dict[str, tuple[str, bool]] = {}
    for name, flag in unread.items():
        field, value = (flag.get("field"), flag.get("is")) if isinstance(flag, dict) else (None, None)
        if not isinstance(field, str) or not isinstance(value, bool):
            raise ValueError(f"'unread' of a part has a field and what it is; found {flag!r:.80}")
        flags[str(name)] = (field, value)
    return flags


def _nested(body: Sequence[Operation]) -> list[Operation]:
    return [inner for one in body for inner in (one, *_nested(one.body or ()))]
