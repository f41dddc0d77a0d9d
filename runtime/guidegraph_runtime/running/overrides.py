"""Override settings of a plan's host operations, such as the sampler or the size, without a new export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from guidegraph_runtime.admission import find_number_problem, is_infinite
from guidegraph_runtime.allowed_files import as_path, takes_file
from guidegraph_runtime.bundle.manifest_types import Operation, walk_operations
from guidegraph_runtime.declare.choice_words import CHOOSE
from guidegraph_runtime.declare.settings import words_of
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
    """The operations of its group with the same ports and outputs, which can replace an operation."""
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


IsAdmitted: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""Whether a run with these overrides, by ``node.setting``, would be admitted."""


@dataclass(frozen=True)
class NodeOverrides:
    """A node of the plan, its settings that can be overridden with their current values, and alternative operations.

    linked: by setting, the value that is wired to it. alternatives: operations that can replace `op`.
    """

    node: str
    op: str
    settings: Mapping[str, Any]
    linked: Mapping[str, str]
    alternatives: Sequence[str]


def find_overrides(
    plan: Sequence[Operation], defaults: Mapping[str, Any], is_admitted: IsAdmitted
) -> Iterator[NodeOverrides]:
    """Yield the nodes with something to override. defaults: of the bundle's inputs, by the names of their values."""
    for operation in host_operations(plan):
        linked = {port.partition(".")[0]: source for port, source in operation.inputs.items()}
        current = {name: operation.settings.get(name, value) for name, value in settings_of(operation.op).items()}
        defaulted = {name: defaults.get(linked.get(name, ""), value) for name, value in current.items()}
        settings = {
            name: value
            for name, value in current.items()
            if not _is_idle(operation, name)
            and not _is_file(value)
            and _may_change(f"{operation.node}.{name}", defaulted[name], operation.op, is_admitted)
        }
        alternatives = [
            name
            for name in find_alternatives(operation.op)
            if name != operation.op and is_admitted({f"{operation.node}.use": name})
        ]
        if settings or alternatives:
            yield NodeOverrides(operation.node, operation.op, settings, linked, alternatives)


def _may_change(name: str, value: Any, op: str, is_admitted: IsAdmitted) -> bool:
    """Whether another value is admitted; if no other is known, whether the current one is."""
    alternatives = [candidate for candidate in other_values(op, name.rpartition(".")[2], value) if candidate != value]
    return any(is_admitted({name: candidate}) for candidate in alternatives or [value])


def other_values(op: str, setting: str, value: Any) -> list[Any]:
    """Values to try instead of `value`."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value, 0, 1]
    if isinstance(value, float):
        return [value / 2, value + 0.1, 1.0, 0.5]
    words = words_of(OPERATIONS[op].hints.get(setting))
    if isinstance(value, str):
        return words
    if isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        return [[*value[:i], 2 * item, *value[i + 1 :]] for i, item in reversed([*enumerate(value)])]
    return [1, 8, 0.5, True, [1], [8, 8], *words] if value is None else []


def _is_idle(operation: Operation, setting: str) -> bool:
    """Whether a setting has no effect in this operation."""
    ports = OPERATIONS[operation.op].idle if operation.op in OPERATIONS else {}
    return setting in ports and (ports[setting] is None or ports[setting] in operation.inputs)


def _is_file(value: object) -> bool:
    """Whether a literal refers to files of the bundle, or contains such references."""
    if isinstance(value, list):
        return any(map(_is_file, value))
    return isinstance(value, dict) and ([*value] == ["file"] or any(map(_is_file, value.values())))
