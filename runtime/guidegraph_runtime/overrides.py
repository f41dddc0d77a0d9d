"""Other settings for a plan's host operations: another sampler, another size, without a new export."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guidegraph_runtime.errors import BundleError, one_of
from guidegraph_runtime.host import OPERATIONS
from guidegraph_runtime.manifest_types import Operation


def overridden(plan: Sequence[Operation], changes: Mapping[str, Any], where: str) -> tuple[Operation, ...]:
    """The plan with ``node.setting`` changed, and with ``node.use`` another operation of the same outputs.

    The other operation keeps the settings that it has too, and those alone.
    Raises ``BundleError`` for a node, a setting or an operation that there is not.
    """
    nodes = {operation.node: operation for operation in _host(plan)}
    by_node: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        node, _, setting = name.rpartition(".")
        if node not in nodes:
            raise BundleError(where, "unknown-node", f"no host node '{node}'; {one_of(node, nodes)}")
        by_node.setdefault(node, {})[setting] = value
    return tuple(_changed(operation, by_node, where) for operation in plan)


def _host(plan: Sequence[Operation]) -> Iterator[Operation]:
    for operation in plan:
        if operation.op not in ("loop", "part"):
            yield operation
        yield from _host(operation.body or ())


def _changed(operation: Operation, changes: Mapping[str, Mapping[str, Any]], where: str) -> Operation:
    if operation.body is not None:
        return replace(operation, body=tuple(_changed(inner, changes, where) for inner in operation.body))
    if operation.op == "part" or operation.node not in changes:
        return operation
    given = dict(changes[operation.node])
    use = given.pop("use", operation.op)
    if use not in OPERATIONS or use.partition(".")[0] != operation.op.partition(".")[0]:
        group = [name for name in OPERATIONS if name.partition(".")[0] == operation.op.partition(".")[0]]
        raise BundleError(where, "unknown-operation", f"{operation.node}: no '{use}'; {one_of(str(use), group)}")
    links = {name: at for name, at in operation.inputs.items() if name.partition(".")[0] not in given}
    settings = operation.settings
    if use != operation.op:
        known = inspect.signature(OPERATIONS[use]).parameters
        links = {name: at for name, at in links.items() if name.partition(".")[0] in known}
        settings = {name: value for name, value in settings.items() if name in known}
    return replace(operation, op=use, inputs=links, settings={**settings, **given})
