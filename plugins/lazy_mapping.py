"""A mapping whose missing entries may be in a plugin that is not imported yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")


class LazyMapping(Mapping[str, Value]):
    """A view of ``values``, which ``load`` and ``load_all`` fill in.

    load: called with a key that is missing. load_all: called before the mapping is iterated or counted.
    """

    def __init__(self, values: Mapping[str, Value], load: Callable[[str], object], load_all: Callable[[], object]):
        self._values, self._load, self._load_all = values, load, load_all

    def __getitem__(self, key: str) -> Value:
        try:
            return self._values[key]
        except KeyError:  # looked up once: another thread may be filling the values in
            self._load(key)
            return self._values[key]

    def __iter__(self) -> Iterator[str]:
        self._load_all()
        return iter(self._values)

    def __len__(self) -> int:
        self._load_all()
        return len(self._values)
