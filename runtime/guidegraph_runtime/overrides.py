"""Other settings for a plan's host operations: another sampler, another size, without a new export."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guidegraph_runtime.admission import is_infinite, number_problem
from guidegraph_runtime.errors import BundleError, one_of
from guidegraph_runtime.host import OPERATIONS
from guidegraph_runtime.manifest_types import Operation
from guidegraph_runtime.trust import given_file, takes_file

NOT_HOSTED = ("loop", "part", "choose")


def overridden(plan: Sequence[Operation], changes: Mapping[str, Any], where: str) -> tuple[Operation, ...]:
    """The plan with ``node.setting`` changed, and with ``node.use`` another operation of the same group.

    Settings that only the operation had whose place another one takes are dropped.

    Raises ``BundleError`` for a node, a setting or an operation that there is not.
    """
    nodes = {operation.node: operation for operation in host_operations(plan)}
    by_node: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        node, _, setting = name.rpartition(".")
        if node not in nodes:
            raise BundleError(where, "unknown-node", f"no host node '{node}'; {one_of(node, nodes)}")
        by_node.setdefault(node, {})[setting] = value
    return tuple(_changed(operation, by_node, where) for operation in plan)


def alike(operation: str) -> list[str]:
    """The operations that may take the place of one: those of its group that take the same ports and give the same."""
    if operation not in OPERATIONS:
        return []
    group = [name for name in OPERATIONS if name.partition(".")[0] == operation.partition(".")[0]]
    return [name for name in group if _ends(name) == _ends(operation)]


def _ends(operation: str) -> tuple[tuple[str, ...], str]:
    signature = inspect.signature(OPERATIONS[operation])
    ports = tuple(one.name for one in signature.parameters.values() if one.kind is not one.KEYWORD_ONLY)
    return ports, str(signature.return_annotation)


def settings_of(operation: str) -> dict[str, Any]:
    """The settings of an operation with their defaults; none of one that this runtime has not."""
    if operation not in OPERATIONS:
        return {}
    found = inspect.signature(OPERATIONS[operation]).parameters.values()
    return {
        one.name: None if one.default is one.empty else one.default for one in found if one.kind is one.KEYWORD_ONLY
    }


def host_operations(plan: Sequence[Operation]) -> Iterator[Operation]:
    """The operations of a plan that are no loops, parts or choices, those of bodies too."""
    for operation in plan:
        if operation.op not in NOT_HOSTED:
            yield operation
        yield from host_operations(operation.body or ())


def _changed(operation: Operation, changes: Mapping[str, Mapping[str, Any]], where: str) -> Operation:
    if operation.body is not None:
        return replace(operation, body=tuple(_changed(inner, changes, where) for inner in operation.body))
    if operation.op in NOT_HOSTED or operation.node not in changes:
        return operation
    given = dict(changes[operation.node])
    use = given.pop("use", operation.op)
    if use not in (group := alike(operation.op)):
        raise BundleError(where, "unknown-operation", f"{operation.node}: no '{use}'; {one_of(str(use), group)}")
    known = inspect.signature(OPERATIONS[use]).parameters
    if unknown := [name for name in given if name not in known]:
        message = f"{operation.node} ({use}): no setting '{unknown[0]}'; {one_of(unknown[0], known)}"
        raise BundleError(where, "unknown-setting", message)
    for name, value in given.items():
        if (reason := number_problem(value, infinite=is_infinite(known[name].default))) is not None:
            raise BundleError(where, "bad-value", f"{operation.node} ({use}): {name}: {reason}")
    # What another operation of the group does not have, such as DDIM's eta, goes with the one that had it.
    links = {
        name: at
        for name, at in operation.inputs.items()
        if (port := name.partition(".")[0]) not in given and port in known
    }
    settings = {name: value for name, value in operation.settings.items() if name.partition(".")[0] in known}
    given = {name: given_file(value) if takes_file(use, name) else value for name, value in given.items()}
    return replace(operation, op=use, inputs=links, settings={**settings, **given})
