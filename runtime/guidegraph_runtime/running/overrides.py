"""Override settings of a plan's host operations, such as the sampler or the size, without a new export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from guidegraph_runtime.admission import find_number_problem, is_infinite
from guidegraph_runtime.allowed_files import as_path, takes_file
from guidegraph_runtime.bundle.manifest_types import Operation, walk_operations
from guidegraph_runtime.declare.choice_words import CHOOSE
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.inputs import check_names

CONTROL_OPERATIONS = ("loop", "part", CHOOSE)


def override_settings(plan: Sequence[Operation], changes: Mapping[str, Any], location: str) -> tuple[Operation, ...]:
    """Return the plan with ``node.setting`` changed, and with operations replaced by ``node.use``.

    Settings that the new operation lacks are dropped. Raises ``BundleError`` for an unknown node, setting or operation.
    """
    check_names(changes, "settings by NODE.SETTING, such as {'noise.seed': 3}", location)
    nodes = {operation.node: operation for operation in host_operations(plan)}
    by_node: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        node, _, setting = name.rpartition(".")
        if not node:
            message = f"expected NODE.SETTING, such as {next(iter(nodes), 'noise')}.use, found '{name}'"
            raise BundleError(location, "bad-setting", message, param=name)
        if node not in nodes:
            message = f"no host node '{node}'; {suggest_name(node, nodes)}"
            raise BundleError(location, "unknown-node", message, param=name)
        by_node.setdefault(node, {})[setting] = value
    return tuple(_override(operation, by_node, location) for operation in plan)


def find_alternatives(operation: str) -> list[str]:
    """The operations that can replace an operation: those of its group with the same ports and outputs."""
    if operation not in OPERATIONS:
        return []
    group = [name for name in OPERATIONS if name.partition(".")[0] == operation.partition(".")[0]]
    return [name for name in group if _interface(name) == _interface(operation)]


def _interface(operation: str) -> tuple[tuple[str, ...], str]:
    signature = OPERATIONS[operation].signature
    ports = tuple(
        parameter.name for parameter in signature.parameters.values() if parameter.kind is not parameter.KEYWORD_ONLY
    )
    return ports, str(signature.return_annotation)


def settings_of(operation: str) -> dict[str, Any]:
    """The settings of an operation with their defaults; {} if the runtime lacks the operation."""
    if operation not in OPERATIONS:
        return {}
    parameters = OPERATIONS[operation].signature.parameters.values()
    return {
        parameter.name: None if parameter.default is parameter.empty else parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def host_operations(plan: Sequence[Operation]) -> Iterator[Operation]:
    """The host operations of a plan (no loops, parts or choices), including those in bodies."""
    return (operation for operation in walk_operations(plan) if operation.op not in CONTROL_OPERATIONS)


def _override(operation: Operation, changes: Mapping[str, Mapping[str, Any]], location: str) -> Operation:
    if operation.body is not None:
        return replace(operation, body=tuple(_override(inner, changes, location) for inner in operation.body))
    if operation.op in CONTROL_OPERATIONS or operation.node not in changes:
        return operation
    settings_to_change = dict(changes[operation.node])
    use = settings_to_change.pop("use", operation.op)
    if use not in (group := find_alternatives(operation.op)):
        message = f"{operation.node}: no '{use}'; {suggest_name(str(use), group)}"
        raise BundleError(location, "unknown-operation", message, param=f"{operation.node}.use")
    parameters = OPERATIONS[use].signature.parameters
    if unknown := [name for name in settings_to_change if name not in parameters]:
        message = f"{operation.node} ({use}): no setting '{unknown[0]}'; {suggest_name(unknown[0], parameters)}"
        raise BundleError(location, "unknown-setting", message, param=f"{operation.node}.{unknown[0]}")
    for name, value in settings_to_change.items():
        if (reason := find_number_problem(value, infinite=is_infinite(parameters[name].default))) is not None:
            message = f"{operation.node} ({use}): {name}: {reason}"
            raise BundleError(location, "bad-value", message, param=f"{operation.node}.{name}")
    # Links and settings that the new operation lacks, such as DDIM's eta, are dropped.
    links = {
        name: source
        for name, source in operation.inputs.items()
        if (port := name.partition(".")[0]) not in settings_to_change and port in parameters
    }
    settings = {name: value for name, value in operation.settings.items() if name.partition(".")[0] in parameters}
    settings_to_change = {
        name: as_path(value) if takes_file(use, name) else value for name, value in settings_to_change.items()
    }
    return replace(operation, op=use, inputs=links, settings={**settings, **settings_to_change})
