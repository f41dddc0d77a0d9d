"""Find values of a loop's body that are unread under some flags, so that they need not be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Operation, walk_operations
from guidegraph_runtime.operations import shapes_read_by
from guidegraph_runtime.running.values import Loop
from guidegraph_runtime.sessions.device_values import as_array_like, to_host

Flags: TypeAlias = tuple[tuple[str, bool], ...]
"""Pairs of the name of a value and its required truth value."""


def find_unread(loop: Loop, body: Sequence[Operation]) -> dict[str, Flags]:
    """By node, the operations whose single output is read only by parts, with the flags under which no part reads it.

    Only operations whose result has the shape of a port, so that zeros can replace it. Raises ``ValueError`` for
    invalid flags.
    """
    flags: dict[str, list[tuple[str, bool]]] = {}
    read = {*loop.next.values(), *loop.collect.values()}
    for operation in walk_operations(body):
        if operation.op == "loop":
            read.update(Loop.of(operation).reads())
        unread = read_flags(operation)
        for source in operation.inputs.values():
            if source in unread:
                flags.setdefault(source, []).append(unread[source])
            else:
                read.add(source)
    return {
        operation.node: tuple(flags[operation.outputs[0]])
        for operation in body
        if len(operation.outputs) == 1 and operation.outputs[0] in flags.keys() - read and _like(operation) is not None
    }


def zeros_like(operation: Operation, values: Mapping[str, Any]) -> NDArray[np.float32]:
    """Zeros of the shape of the port that determines an operation's shape."""
    name = _like(operation)
    assert name is not None
    return np.zeros(as_array_like(values[name]).shape, np.float32)


def is_unread(flags: Flags, values: Mapping[str, Any]) -> bool:
    """Whether all values equal their flags."""
    return all(name in values and bool(to_host(values[name])) is value for name, value in flags)


def _like(operation: Operation) -> str | None:
    """The name of a value of which an operation reads only the shape; ``None`` if there is none."""
    ports = shapes_read_by(operation.op)
    return next((operation.inputs[port] for port in ports if port in operation.inputs), None)


def read_flags(operation: Operation) -> dict[str, tuple[str, bool]]:
    """The inputs of a part that are unread under a flag, with the name of its value and its required truth value.

    None of another operation. Raises ``ValueError`` for invalid flags.
    """
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
