"""The topological order of a graph, without networkx, whose import takes longer than reading a workflow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from heapq import heappop, heappush
from typing import TypeVar

from guidegraph.graph.ir import Op
from guidegraph.graph.sources import Output, Source

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


def find_dependencies(
    ops: Mapping[str, Op],
    roots: Iterable[Source],
    *,
    keep: Callable[[Op], bool] | None = None,
    reads: Callable[[Op], Iterable[Source]] | None = None,
) -> dict[str, Op]:
    """The operations that some sources depend on, in order.

    keep: accepts operations that count as needed anyway. reads: the sources that a needed operation depends on; by
    default all that it reads.
    """
    needed = {source.op for source in roots if isinstance(source, Output)}
    if not needed and keep is None:
        return {}
    kept: list[Op] = []
    for op in reversed([*ops.values()]):
        if op.key in needed or (keep is not None and keep(op)):
            kept.append(op)
            if reads is None:
                needed.update(op.dependencies)
            else:
                needed.update(source.op for source in reads(op) if isinstance(source, Output))
    return dict(ops) if len(kept) == len(ops) else {op.key: op for op in reversed(kept)}
