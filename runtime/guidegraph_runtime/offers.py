"""What may be changed in a bundle's plan: settings and operations that a run with the bundle's defaults takes.

Each is tried in a rehearsal, which computes no graph: what would be refused is not offered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from guidegraph_runtime.host import IDLE, OPERATIONS
from guidegraph_runtime.manifest_types import Operation
from guidegraph_runtime.overrides import alike, host_operations, settings_of

Takes: TypeAlias = Callable[[Mapping[str, Any]], bool]
"""Whether a run with these changes, by ``node.setting``, would be admitted."""


@dataclass(frozen=True)
class Offer:
    """A node of the plan, the settings of it that another value may have, with what they are, and other operations.

    linked: by setting, the value that feeds it.
    """

    node: str
    op: str
    settings: Mapping[str, Any]
    linked: Mapping[str, str]
    others: Sequence[str]


def offers(plan: Sequence[Operation], defaults: Mapping[str, Any], takes: Takes) -> Iterator[Offer]:
    """The nodes of which something may be changed. defaults: of the bundle's inputs, by the names of their values."""
    for operation in host_operations(plan):
        linked = {port.partition(".")[0]: at for port, at in operation.inputs.items()}
        current = {name: operation.settings.get(name, value) for name, value in settings_of(operation.op).items()}
        settings = {
            name: value
            for name, value in current.items()
            if not _is_idle(operation, name)
            and not _is_file(value)
            and _may_change(f"{operation.node}.{name}", defaults.get(linked.get(name, ""), value), operation.op, takes)
        }
        others = [
            name for name in alike(operation.op) if name != operation.op and takes({f"{operation.node}.use": name})
        ]
        if settings or others:
            yield Offer(operation.node, operation.op, settings, linked, others)


def _may_change(name: str, value: Any, op: str, takes: Takes) -> bool:
    """Whether another value than this one is taken; where there is no knowing of others, whether this one is."""
    others = [one for one in other_values(op, name.rpartition(".")[2], value) if one != value]
    return any(takes({name: one}) for one in others or [value])


def other_values(op: str, setting: str, value: Any) -> list[Any]:
    """Values to try in the place of one."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value, 0, 1]
    if isinstance(value, float):
        return [value / 2, value + 0.1, 1.0, 0.5]
    words = _words(op, setting)
    if isinstance(value, str):
        return words
    if isinstance(value, list) and value and all(isinstance(one, (int, float)) for one in value):
        return [[*value[:i], 2 * one, *value[i + 1 :]] for i, one in reversed([*enumerate(value)])]
    return [1, 8, 0.5, True, [1], [8, 8], *words] if value is None else []


def _words(op: str, setting: str) -> list[str]:
    """The words that the annotation of a setting has."""
    try:
        hints = get_type_hints(inspect.unwrap(OPERATIONS[op]))
    except NameError:
        return []
    todo, found = [hints.get(setting)], []
    while todo:
        hint = todo.pop()
        if get_origin(hint) is Literal:
            found += [word for word in get_args(hint) if isinstance(word, str)]
        else:
            todo += get_args(hint)
    return found


def _is_idle(operation: Operation, setting: str) -> bool:
    """Whether a setting makes no difference where it is."""
    ports = IDLE.get(operation.op, {})
    return setting in ports and (ports[setting] is None or ports[setting] in operation.inputs)


def _is_file(value: object) -> bool:
    """Whether a literal is the bytes of files of the bundle, or holds some."""
    if isinstance(value, list):
        return any(map(_is_file, value))
    return isinstance(value, dict) and ([*value] == ["file"] or any(map(_is_file, value.values())))
