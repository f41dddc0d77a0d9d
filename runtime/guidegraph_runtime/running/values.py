"""Stores the values of a run by name. A structured value is stored as its fields: ``scheduler.state.index``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guidegraph_runtime.errors import suggest_name


class Values(dict[str, Any]):
    """Values by name."""

    def read(self, name: str) -> Any:
        """Return a value. Raises ``ValueError`` for an unknown name."""
        if name not in self:
            raise ValueError(f"no value '{name}'; {suggest_name(name, self)}")
        return self[name]

    def keep(self, base: str, value: Any) -> None:
        """Store a value, or the fields of a structured value, under their names."""
        for path, field in flatten_fields(value):
            self[f"{base}.{path}" if path else base] = field


def flatten_fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Flatten a structured value, a nested dict, into (dotted path, field) pairs."""
    if not isinstance(value, Mapping):
        yield "", value
        return
    for name, field in value.items():
        for path, leaf in flatten_fields(field):
            yield (f"{name}.{path}" if path else str(name)), leaf


def build_arguments(values_by_path: Mapping[str, Any]) -> dict[str, Any]:
    """Group values by port: ``port.field`` becomes a dict of fields, ``port.0`` a list."""
    tree: dict[str, Any] = {}
    for path, value in values_by_path.items():
        *parents, last = path.split(".")
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return {port: _lists(subtree) for port, subtree in tree.items()}


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {key: _lists(item) for key, item in value.items()}
    return [items[str(i)] for i in range(len(items))] if items and all(key.isdigit() for key in items) else items
