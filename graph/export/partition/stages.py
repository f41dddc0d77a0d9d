"""Grouping a block into host operations and traced parts, as few and as large as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from guidegraph.graph.ir import Call, Op
from guidegraph.graph.planning.choice_branches import find_branch_conditions
from guidegraph.graph.sources import Output, Source


@dataclass(frozen=True)
class Stage:
    """One host operation, or the operations of one traced part, in order."""

    ops: tuple[Op, ...]
    traced: bool


def group_stages(ops: Mapping[str, Op], traced: Callable[[Call], bool], roots: Iterable[Source] = ()) -> list[Stage]:
    """Group the operations of a block, which are in topological order and all left for the run.

    The depth of an operation is the largest number of changes from traced to host on a path to it. Traced operations of
    one depth are one part, and host operations run as early as possible. Operations that are needed for different
    branches of choices are separate parts. roots: the sources needed from the block.
    """
    depth: dict[str, int] = {}
    is_traced = {key: isinstance(op, Call) and traced(op) for key, op in ops.items()}
    for key, op in ops.items():
        level = 0
        for source in op.sources():
            if isinstance(source, Output) and source.op in depth:
                level = max(level, depth[source.op] + (is_traced[source.op] and not is_traced[key]))
        depth[key] = level
    conditions = find_branch_conditions(ops, roots)
    groups: list[Stage] = []
    for level in range(max(depth.values(), default=-1) + 1):
        level_ops = [op for key, op in ops.items() if depth[key] == level]
        groups += [Stage((op,), False) for op in level_ops if not is_traced[op.key]]
        groups += _parts([op for op in level_ops if is_traced[op.key]], conditions)
    return groups


def _parts(ops: Sequence[Op], conditions: Mapping[str, frozenset[tuple[str, str]]]) -> list[Stage]:
    """Traced operations of one depth, grouped by the branches that need them.

    The parts are ordered by decreasing number of branches, since a part that others read has at least all of theirs.
    """
    groups: dict[frozenset[tuple[str, str]], list[Op]] = {}
    for op in ops:
        groups.setdefault(conditions[op.key], []).append(op)
    order = sorted(groups, key=lambda branches: -len(branches) if branches else float("-inf"))
    return [Stage(tuple(groups[branches]), True) for branches in order]
