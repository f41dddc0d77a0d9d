"""Making choices: a choice is replaced by the branch that it takes, and operations of the others are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.ir import Choice, Loop, Op, walk
from guidegraph.graph.planning.choice_branches import choose_branch, find_branch_operations
from guidegraph.graph.planning.dependencies import find_dependencies
from guidegraph.graph.planning.passes import bind_sources, follow_aliases
from guidegraph.graph.sources import Literal, Output, Param, Source

Ops = Mapping[str, Op]


@dataclass
class BlockAfterChoices:
    """A block after choices. aliases: the branch's source for each choice. taken: the branch taken, by the key."""

    ops: dict[str, Op] = field(default_factory=dict)
    aliases: dict[Source, Source] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)

    def source(self, source: Source) -> Source:
        """The source after the choices."""
        return follow_aliases(self.aliases)(source)


def make_choices(ops: Ops, roots: Iterable[Source], branches: Mapping[str, str] | None = None) -> BlockAfterChoices:
    """Make the choices whose value is a literal, in loop bodies too, and those in ``branches``, by key.

    roots: the sources needed from the block. Raises ``NodeError`` for a value without a branch, and ``WorkflowError``
    for a branch that does not fit the port that reads it.
    """
    result = BlockAfterChoices(dict(ops))
    if any(isinstance(op, Choice) for op in walk(ops)):
        new_ops = _make_choices(ops, branches or {}, result)
        result.ops = _drop_unneeded(ops, new_ops, map(result.source, roots))
    return result


def _make_choices(ops: Ops, branches: Mapping[str, str], result: BlockAfterChoices) -> dict[str, Op]:
    new_ops: dict[str, Op] = {}
    for op in ops.values():
        op = _replace_sources(op, result)
        if isinstance(op, Choice) and (op.key in branches or isinstance(op.when, Literal)):
            branch = branches.get(op.key)
            if branch is None:
                assert isinstance(op.when, Literal)
                branch = choose_branch(op, op.when.value)
            result.taken[op.key] = branch
            result.aliases[Output(op.key, "out")] = op.branch(branch)
            continue
        new_ops[op.key] = _make_choices_in_loop(op, branches, result) if isinstance(op, Loop) else op
    return new_ops


def _make_choices_in_loop(loop: Loop, branches: Mapping[str, str], result: BlockAfterChoices) -> Loop:
    count = len(result.taken)
    new_loop = loop.with_blocks(*[_make_choices(block.ops, branches, result) for block in loop.blocks()])
    if len(result.taken) == count:
        return loop
    new_loop = _replace_sources(new_loop, result)
    blocks = zip(loop.blocks(), new_loop.blocks(), strict=True)
    return new_loop.with_blocks(*[_drop_unneeded(before.ops, after.ops, after.roots) for before, after in blocks])


def make_parameter_choices(ops: Ops, roots: Iterable[Source], values: Mapping[str, Any]) -> BlockAfterChoices:
    """Make the choices whose ``when`` is a parameter with a value. The parameters themselves are not bound."""
    result = BlockAfterChoices(dict(ops))
    root_sources = list(roots)
    while branches := {
        op.key: choose_branch(op, values[op.when.name])
        for op in walk(result.ops)
        if isinstance(op, Choice) and isinstance(op.when, Param) and op.when.name in values
    }:
        next_result = make_choices(result.ops, map(result.source, root_sources), branches)
        result = BlockAfterChoices(
            next_result.ops, result.aliases | next_result.aliases, result.taken | next_result.taken
        )
    return result


AnyOp = TypeVar("AnyOp", bound=Op)


def _replace_sources(op: AnyOp, result: BlockAfterChoices) -> AnyOp:
    if not result.aliases:
        return op
    values = {source: result.source(source) for source in result.aliases}
    try:
        return cast(AnyOp, bind_sources(op, values))
    except ValueError as error:
        message = f"the value of a choice does not fit {error}"
        raise WorkflowError([Problem(op.mark, "bad-value", message, f"nodes.{op.key}")]) from error


def _drop_unneeded(before: Ops, after: Ops, roots: Iterable[Source]) -> dict[str, Op]:
    """The remaining operations, without those that only branches needed and nothing needs any more."""
    in_branches = find_branch_operations(before)
    return find_dependencies(after, roots, keep=lambda op: op.key not in in_branches)
