"""The topological order of a graph, without networkx, whose import takes longer than reading a workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from heapq import heappop, heappush
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def order_by_edges(successors: Mapping[Key, Collection[Key]]) -> list[Key]:
    """The keys in topological order and, where that leaves a choice, in the order of the mapping.

    successors: for each key, the distinct keys that come after it. Keys on a cycle and those after one are left out.
    """
    keys = list(successors)
    position = {key: i for i, key in enumerate(keys)}
    waiting = Counter(after for edges in successors.values() for after in edges)
    ready = [position[key] for key in keys if not waiting[key]]
    order: list[Key] = []
    while ready:
        key = keys[heappop(ready)]
        order.append(key)
        for after in successors[key]:
            waiting[after] -= 1
            if not waiting[after]:
                heappush(ready, position[after])
    return order
