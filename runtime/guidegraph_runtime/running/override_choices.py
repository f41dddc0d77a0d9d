"""Find the settings and operations of a bundle's plan that can be overridden in a run with the bundle's defaults.

Each is tried in a rehearsal, which computes no graph; overrides that would be refused are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.declare.settings import words_of
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.overrides import find_alternatives, host_operations, settings_of

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
