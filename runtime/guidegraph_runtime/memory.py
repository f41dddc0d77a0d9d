"""The values of a run by name. A structured value is its fields: ``scheduler.state.index``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from guidegraph_runtime.errors import one_of


class Memory(dict[str, Any]):
    """Values by name."""

    def read(self, name: str) -> Any:
        """A value. Raises ``ValueError`` for a name that nothing gave."""
        if name not in self:
            raise ValueError(f"no value '{name}'; {one_of(name, self)}")
        return self[name]

    def keep(self, base: str, value: Any) -> None:
        """Keep a value, or the fields of a structured one, under their names."""
        for path, one in fields_of(value):
            self[f"{base}.{path}" if path else base] = one


def fields_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a structured value, which is a dict of them, by their dotted paths."""
    if not isinstance(value, Mapping):
        yield "", value
        return
    for name, one in value.items():
        for path, inner in fields_of(one):
            yield (f"{name}.{path}" if path else str(name)), inner


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by path as an operation takes them, by port: dicts of fields (``port.field``), lists (``port.0``)."""
    tree: dict[str, Any] = {}
    for path, value in given.items():
        *above, last = path.split(".")
        at = tree
        for key in above:
            at = at.setdefault(key, {})
        at[last] = value
    return {port: _lists(one) for port, one in tree.items()}


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _lists(one) for key, one in value.items()}
    return [inner[str(i)] for i in range(len(inner))] if inner and all(key.isdigit() for key in inner) else inner
