"""Which operations of a plan a run needs: those that its outputs depend on, of a choice the branch that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from guidegraph_runtime.choices import CHOOSE, Choice
from guidegraph_runtime.device import on_host
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest_types import Operation
from guidegraph_runtime.memory import Memory


def needed(plan: Sequence[Operation], wanted: Iterable[str], taken: Mapping[str, str] | None = None) -> list[Operation]:
    """The operations that some values depend on, in order.

    taken: the branches of choices, by node; of another choice only what it is made by counts. Without it every branch
    counts.
    """
    names = set(wanted)
    kept = []
    for operation in reversed(plan):
        if names.isdisjoint(operation.outputs):
            continue
        kept.append(operation)
        if operation.op == CHOOSE and taken is not None:
            names |= _chosen_reads(Choice.of(operation), taken)
        else:
            names |= reads(operation)
    return kept[::-1]


def reads(operation: Operation) -> set[str]:
    """The names of the values that an operation, or its body, reads."""
    links = {*(Loop.of(operation).reads() if operation.op == "loop" else operation.inputs.values())}
    return links.union(*map(reads, operation.body or ()))


def _chosen_reads(choice: Choice, taken: Mapping[str, str]) -> set[str]:
    names = {*choice.branches[taken[choice.node]].links.values()} if choice.node in taken else set()
    return names if choice.when is None else {*names, choice.when}


def on_demand(
    plan: Sequence[Operation], wanted: Sequence[str], memory: Memory, is_known: Callable[[Any], bool] = lambda _: True
) -> Iterator[Operation]:
    """The operations to run for some values, in an order in which they can be, of choices the branches that they take.

    Each must be run before the next is asked for. is_known: whether a value is there to choose by; a choice by another
    comes without its branches. Raises ``ValueError`` for a choice whose value has no branch.
    """
    taken: dict[str, str] = {}
    done: set[int] = set()

    def read(name: str) -> Any:
        return on_host(memory.read(name))

    choices = {id(one): Choice.of(one) for one in plan if one.op == CHOOSE}
    while True:
        waiting: set[str] = set()
        count = len(taken)
        for operation in needed(plan, wanted, taken):
            if id(operation) in done:
                continue
            choice = choices.get(id(operation))
            if choice is not None and choice.node not in taken:
                if choice.when is not None and choice.when not in waiting and not is_known(memory.read(choice.when)):
                    yield operation
                    done.add(id(operation))
                    continue
                if choice.when not in waiting:
                    taken[choice.node] = choice.taken(read)
                waiting |= {*operation.outputs}
                continue
            links = reads(operation) if choice is None else _chosen_reads(choice, taken)
            if links & waiting:
                waiting |= {*operation.outputs}
                continue
            yield operation
            done.add(id(operation))
        if len(taken) == count:
            return
