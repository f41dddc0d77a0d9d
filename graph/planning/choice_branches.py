"""Choices: which operations are certain to run, and which run only if a branch is taken.

An operation is *optional* while only branches of pending choices need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from guidegraph.graph.errors import NodeError, suggest
from guidegraph.graph.ir import Choice, Op
from guidegraph.graph.planning.dependencies import find_dependencies
from guidegraph.graph.sources import Output, Source
from guidegraph.graph.types import describe_value, is_tensor
from guidegraph_runtime.declare.choice_words import OTHERWISE, WHEN

Ops = Mapping[str, Op]


def branch_label(value: object) -> str | None:
    """The name of the branch for a value; ``None`` if a value of its type cannot select a branch.

    A tensor of one element counts as that number.
    """
    if is_tensor(value):
        value = value.item() if value.numel() == 1 else None  # type: ignore[attr-defined]
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, str)) else None


def choose_branch(choice: Choice, value: Any) -> str:
    """The branch that a value of ``when`` selects. Raises ``NodeError`` if there is none."""
    label = branch_label(value)
    if label is None:
        message = f"a choice is made by a text, a whole number, true or false; found {describe_value(value)}"
    elif label in choice.inputs and label != OTHERWISE:
        return label
    elif OTHERWISE in choice.inputs:
        return OTHERWISE
    else:
        message = f"no branch '{label:.60}'; {suggest(label[:60], choice.inputs, 'branches')}"
    mark = choice.marks.get(WHEN, choice.mark)
    raise NodeError(f"nodes.{choice.key}", choice.spec.id, mark, ValueError(f"port '{WHEN}': {message}"))


def find_branch_operations(ops: Ops) -> set[str]:
    """The keys of all operations that a branch of a choice depends on, including choices in loop bodies."""
    choosing = [op for op in ops.values() if op.has_branches or op.has_blocks]
    return set(find_dependencies(ops, [source for op in choosing for source in _branch_sources(op)]))


def _branch_sources(op: Op) -> Iterator[Source]:
    yield from op.branches()
    for block in op.blocks()[:1]:
        inside = find_branch_operations(block.ops)
        for inner in block.ops.values():
            yield from inner.sources() if inner.key in inside else _branch_sources(inner)


def make_effect_test(ops: Ops) -> Callable[[Op], bool]:
    """A test for operations with effects that no branch depends on."""
    in_branches = find_branch_operations(ops)
    return lambda op: op.key not in in_branches and not op.is_pure


def certain_operations(ops: Ops, roots: Iterable[Source], *, effects: bool = True) -> set[str]:
    """The keys of the operations that are needed whichever branches are taken.

    Operations with effects are needed unless a branch depends on them. effects: if off, they do not count.
    """
    keep = make_effect_test(ops) if effects else None
    return set(find_dependencies(ops, roots, keep=keep, reads=lambda op: op.certain_sources()))


def find_optional_operations(ops: Ops, roots: Iterable[Source]) -> set[str]:
    """The keys of the operations that only branches of choices need."""
    if not any(op.has_branches for op in ops.values()):
        return set()
    return find_branch_operations(ops) - certain_operations(ops, roots)


def drop_optional(ops: Ops, roots: Iterable[Source]) -> dict[str, Op]:
    """The operations without the optional ones, in loop bodies too."""
    optional = find_optional_operations(ops, roots)
    return {key: _drop_optional_inside(op) if op.has_blocks else op for key, op in ops.items() if key not in optional}


def _drop_optional_inside(op: Op) -> Op:
    return op.map_body(lambda body: drop_optional(body, op.blocks()[0].roots))


def find_next_choices(ops: Ops, roots: Iterable[Source], *, effects: bool = True) -> tuple[Choice, ...]:
    """The choices to make next: certain to be needed, with a ``when`` that depends on no other choice."""
    if not any(op.has_branches for op in ops.values()):
        return ()
    certain = certain_operations(ops, roots, effects=effects)
    undecided: set[str] = set()
    choices_ready: list[Choice] = []
    for op in ops.values():
        if isinstance(op, Choice):
            if op.key in certain and not (isinstance(op.when, Output) and op.when.op in undecided):
                choices_ready.append(op)
            undecided.add(op.key)
        elif any(isinstance(source, Output) and source.op in undecided for source in op.sources()):
            undecided.add(op.key)
    return tuple(choices_ready)


def find_branch_conditions(ops: Ops, roots: Iterable[Source]) -> dict[str, frozenset[tuple[str, str]]]:
    """For each operation the branches, as (choice, branch name), any of which makes it needed.

    Empty for an operation that is always needed. Operations with the same branches are needed together. Choices that
    take the same branch in every run, because they have the same ``when`` and branch names, count as the first of them.
    """
    certain = certain_operations(ops, roots, effects=False)
    first_alike: dict[tuple[Source, frozenset[str]], str] = {}
    leaders = {
        op.key: first_alike.setdefault((op.when, frozenset(op.inputs)), op.key)
        for op in ops.values()
        if isinstance(op, Choice) and op.key in certain
    }
    conditions: dict[str, set[tuple[str, str]]] = {key: set() for key in ops}
    for op in reversed([*ops.values()]):
        for source, branch in _sources_by_branch(op):
            if isinstance(source, Output) and source.op in conditions:
                conditions[source.op] |= {(leaders.get(op.key, op.key), branch)} if branch else conditions[op.key]
    return {key: frozenset() if key in certain else frozenset(branches) for key, branches in conditions.items()}


def _sources_by_branch(op: Op) -> Iterator[tuple[Source, str]]:
    """The sources of an operation, each with the branch that reads it, or "" if it is always read."""
    if isinstance(op, Choice):
        yield op.when, ""
        yield from ((op.branch(name), name) for name in op.inputs)
    else:
        yield from ((source, "") for source in op.sources())
