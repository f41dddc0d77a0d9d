"""A region as alternating host operations and traced parts, as few and as large as can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guidegraph.graph.ir import Call, Op, Output


@dataclass(frozen=True)
class Stage:
    """One host operation, or the operations of one traced part, in order."""

    ops: tuple[Op, ...]
    traced: bool


def stages(ops: Mapping[str, Op], traced: Callable[[Call], bool]) -> list[Stage]:
    """Group the operations of a region. Those given are in topological order; all of them are left for the run.

    The depth of an operation is how often a way to it changes from traced to host; traced operations of one depth are
    one part, and host operations come as soon as they can.
    """
    depth: dict[str, int] = {}
    is_traced = {key: isinstance(op, Call) and traced(op) for key, op in ops.items()}
    for key, op in ops.items():
        level = 0
        for source in op.sources():
            if isinstance(source, Output) and source.op in depth:
                level = max(level, depth[source.op] + (is_traced[source.op] and not is_traced[key]))
        depth[key] = level
    found: list[Stage] = []
    for level in range(max(depth.values(), default=-1) + 1):
        here = [op for key, op in ops.items() if depth[key] == level]
        found += [Stage((op,), False) for op in here if not is_traced[op.key]]
        part = tuple(op for op in here if is_traced[op.key])
        found += [Stage(part, True)] if part else []
    return found


def read_outside(ops: Sequence[Op], part: Stage) -> set[str]:
    """The keys of operations of a part that others of the region read."""
    inside = {op.key for op in part.ops}
    return {
        source.op
        for op in ops
        if op.key not in inside
        for source in op.sources()
        if isinstance(source, Output) and source.op in inside
    }
