"""The operations that some sources depend on: one backward walk, used by all passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from guidegraph.graph.ir import Op
from guidegraph.graph.sources import Output, Source


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
