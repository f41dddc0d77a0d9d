"""Stores the values of a run by name. A structured value is stored as its fields: ``scheduler.state.index``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from guidegraph_runtime.bundle.manifest_types import Operation
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


_LINKS = ("next", "collect", "result")


@dataclass(frozen=True)
class Loop:
    """A loop operation.

    over: the name of the sequence, or the number of iterations. item, index: the names of the item and its index.
    start: the initial value of each carried value. next: its value for the next iteration. collect: values that are
    stacked over the iterations. result: final carried values. The keys of the last two are the names after the loop.
    """

    over: str | int
    item: str
    index: str
    start: Mapping[str, str]
    next: Mapping[str, str]
    collect: Mapping[str, str]
    result: Mapping[str, str]

    @classmethod
    def of(cls, operation: Operation) -> Loop:
        """Parse a loop operation. Raises ``ValueError`` if it is incomplete."""
        settings = operation.settings
        if unknown := settings.keys() - {"over", "item", "index", *_LINKS}:
            raise ValueError(f"a loop has no setting '{min(unknown)}'")
        over = settings.get("over")
        if isinstance(over, bool) or not isinstance(over, (str, int)):
            raise ValueError(f"a loop runs over a value or a number; found {over!r:.80}")
        links = {}
        for name in _LINKS:
            value = settings.get(name, {})
            if not isinstance(value, Mapping) or not all(isinstance(source, str) for source in value.values()):
                raise ValueError(f"'{name}' of a loop maps names to names of values; found {value!r:.80}")
            links[name] = {str(key): str(source) for key, source in value.items()}
        if links["next"].keys() != operation.inputs.keys():
            raise ValueError(f"a loop starts {sorted(operation.inputs)} and continues {sorted(links['next'])}")
        names = [settings.get(name, f"{operation.node}.{name}") for name in ("item", "index")]
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"the names of a loop's item and index are texts; found {names!r:.80}")
        return cls(over, str(names[0]), str(names[1]), operation.inputs, **links)

    def reads(self) -> Iterator[str]:
        """The names of the values that the loop itself reads."""
        yield from (*self.start.values(), *self.next.values(), *self.collect.values(), *self.result.values())
        if isinstance(self.over, str):
            yield self.over
