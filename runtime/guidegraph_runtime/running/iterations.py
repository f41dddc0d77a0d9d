"""The iterations of a loop on the values of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from guidegraph_runtime.running.loops import Loop
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.sessions.device_values import to_host


class Iterations:
    """The iterations of a loop, which set and read the values of a run.

    items: the number of iterations, or a sequence with an item for each.
    """

    def __init__(self, loop: Loop, values: Values, items: Any) -> None:
        self._loop, self._values = loop, values
        self._items: Sequence[Any] = range(items) if isinstance(items, int) else items
        self._collected: dict[str, list[Any]] = {name: [] for name in loop.collect}
        values.update({link: values.read(start) for link, start in loop.start.items()})

    def __len__(self) -> int:
        return len(self._items)

    def begin(self, i: int) -> None:
        """Set the index and the item of iteration i; a number keeps an axis of 1, for all samples."""
        items, loop = self._items, self._loop
        self._values[loop.index] = i
        self._values[loop.item] = items[i : i + 1] if isinstance(items, np.ndarray) and items.ndim == 1 else items[i]

    def end(self) -> None:
        """Collect values, and carry others to the next iteration."""
        values, loop = self._values, self._loop
        for name, link in loop.collect.items():
            self._collected[name].append(values.read(link))
        values.update({link: values.read(after) for link, after in loop.next.items()})

    def leave(self) -> None:
        """Set the loop's results after its last iteration."""
        values, loop = self._values, self._loop
        values.update({name: values.read(link) for name, link in loop.result.items()})
        values.update({name: _stack(collected) for name, collected in self._collected.items()})


def _stack(values: Sequence[Any]) -> Any:
    """Stack collected values; without iterations, an empty array (0), as in the engine."""
    return np.stack([*map(to_host, values)]) if values else np.empty(0, np.float32)
