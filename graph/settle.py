"""Making choices: a choice becomes the branch that it takes, and what only the other branches need is dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from guidegraph.graph.choices import branch_operations, taken_branch
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Choice, Literal, Loop, Op, Output, Param, Source, walk
from guidegraph.graph.passes import aliased, bind_sources

Ops = Mapping[str, Op]


@dataclass
class Settled:
    """A region with choices made. aliases: where the value of each of them is now. taken: their branches, by key."""

    ops: dict[str, Op] = field(default_factory=dict)
    aliases: dict[Source, Source] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)

    def source(self, source: Source) -> Source:
        """Where a value is now."""
        return aliased(self.aliases)(source)


def settle(ops: Ops, roots: Iterable[Source], branches: Mapping[str, str] | None = None) -> Settled:
    """Make the choices whose value is a literal, in bodies too, and those whose branches are given by their keys.

    roots: what is wanted of the region. Raises ``NodeError`` for a value without a branch, and ``WorkflowError`` for a
    value that does not fit what it then feeds.
    """
    settled = Settled(dict(ops))
    if any(isinstance(op, Choice) for op in walk(ops)):
        made = _make(ops, branches or {}, settled)
        settled.ops = _drop_untaken(ops, made, map(settled.source, roots))
    return settled


def _make(ops: Ops, branches: Mapping[str, str], settled: Settled) -> dict[str, Op]:
    made: dict[str, Op] = {}
    for op in ops.values():
        op = _replace_sources(op, settled)
        if isinstance(op, Choice) and (op.key in branches or isinstance(op.when, Literal)):
            branch = branches.get(op.key)
            if branch is None:
                assert isinstance(op.when, Literal)
                branch = taken_branch(op, op.when.value)
            settled.taken[op.key] = branch
            settled.aliases[Output(op.key, "out")] = op.branch(branch)
            continue
        made[op.key] = _make_inside(op, branches, settled) if isinstance(op, Loop) else op
    return made


def _make_inside(loop: Loop, branches: Mapping[str, str], settled: Settled) -> Loop:
    count = len(settled.taken)
    body = _make(loop.body, branches, settled)
    preview = loop.training.preview if loop.training else None
    looks = _make(preview.ops, branches, settled) if preview else {}
    if len(settled.taken) == count:
        return loop
    made = replace(loop, body=body)
    if loop.training and preview:
        made = replace(made, training=replace(loop.training, preview=replace(preview, ops=looks)))
    made = _replace_sources(made, settled)
    made = replace(made, body=_drop_untaken(loop.body, made.body, made.roots()))
    if made.training and made.training.preview and preview:
        roots = [output.source for output in made.training.preview.outputs.values()]
        kept = _drop_untaken(preview.ops, made.training.preview.ops, roots)
        made = replace(made, training=replace(made.training, preview=replace(made.training.preview, ops=kept)))
    return made


def settle_by_parameters(ops: Ops, roots: Iterable[Source], values: Mapping[str, Any]) -> Settled:
    """Make the choices that parameters make, whose values are given by name, and leave the parameters as they are."""
    settled = Settled(dict(ops))
    wanted = list(roots)
    while branches := {
        op.key: taken_branch(op, values[op.when.name])
        for op in walk(settled.ops)
        if isinstance(op, Choice) and isinstance(op.when, Param) and op.when.name in values
    }:
        following = settle(settled.ops, map(settled.source, wanted), branches)
        settled = Settled(following.ops, settled.aliases | following.aliases, settled.taken | following.taken)
    return settled


AnyOp = TypeVar("AnyOp", bound=Op)


def _replace_sources(op: AnyOp, settled: Settled) -> AnyOp:
    if not settled.aliases:
        return op
    values = {source: settled.source(source) for source in settled.aliases}
    try:
        return cast(AnyOp, bind_sources(op, values))
    except ValueError as error:
        message = f"what a choice gives does not fit {error}"
        raise WorkflowError([Problem(op.mark, "bad-value", message, f"nodes.{op.key}")]) from error


def _drop_untaken(before: Ops, after: Ops, roots: Iterable[Source]) -> dict[str, Op]:
    """The operations that are left, without those that branches alone needed and nothing needs any more."""
    inside = branch_operations(before)
    needed = {source.op for source in roots if isinstance(source, Output)}
    kept: list[Op] = []
    for op in reversed([*after.values()]):
        if op.key in needed or op.key not in inside:
            kept.append(op)
            needed.update(source.op for source in op.sources() if isinstance(source, Output))
    return {op.key: op for op in reversed(kept)}
