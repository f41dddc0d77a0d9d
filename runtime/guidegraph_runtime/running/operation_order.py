"""Select the operations of a plan that its outputs depend on; of a choice, only the branch that is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.declare.choice_words import CHOOSE
from guidegraph_runtime.running.choices import Choice
from guidegraph_runtime.running.values import Loop, Values
from guidegraph_runtime.sessions.device_values import to_host


def select_operations(
    plan: Sequence[Operation], targets: Iterable[str], taken: Mapping[str, str] | None = None
) -> list[Operation]:
    """The operations that some values depend on, in order.

    taken: the branches of choices, by node. Of a choice that is not in it, only the selector counts. Without `taken`
    every branch counts.
    """
    names = set(targets)
    kept = []
    for operation in reversed(plan):
        if names.isdisjoint(operation.outputs):
            continue
        kept.append(operation)
        if operation.op == CHOOSE and taken is not None:
            names |= _choice_reads(Choice.of(operation), taken)
        else:
            names |= reads(operation)
    return kept[::-1]


def reads(operation: Operation) -> set[str]:
    """The names of the values that an operation, or its body, reads."""
    links = {*(Loop.of(operation).reads() if operation.op == "loop" else operation.inputs.values())}
    return links.union(*map(reads, operation.body or ()))


def _choice_reads(choice: Choice, taken: Mapping[str, str]) -> set[str]:
    names = {*choice.branches[taken[choice.node]].links.values()} if choice.node in taken else set()
    return names if choice.when is None else {*names, choice.when}


def schedule_operations(
    plan: Sequence[Operation], targets: Sequence[str], values: Values, is_known: Callable[[Any], bool] = lambda _: True
) -> Iterator[Operation]:
    """Yield the operations to run for some values, in a valid order; of choices, only the branches that are taken.

    Each operation must be run before the next is requested. is_known: whether a value can select a branch; a choice
    by an unknown value is yielded without its branches. Raises ``ValueError`` if a value matches no branch.
    """
    taken: dict[str, str] = {}
    done: set[int] = set()

    def read(name: str) -> Any:
        return to_host(values.read(name))

    choices = {id(operation): Choice.of(operation) for operation in plan if operation.op == CHOOSE}
    while True:
        pending: set[str] = set()
        count = len(taken)
        for operation in select_operations(plan, targets, taken):
            if id(operation) in done:
                continue
            choice = choices.get(id(operation))
            if choice is not None and choice.node not in taken:
                if choice.when is not None and choice.when not in pending and not is_known(values.read(choice.when)):
                    yield operation
                    done.add(id(operation))
                    continue
                if choice.when not in pending:
                    taken[choice.node] = choice.select_branch(read)
                pending |= {*operation.outputs}
                continue
            links = reads(operation) if choice is None else _choice_reads(choice, taken)
            if links & pending:
                pending |= {*operation.outputs}
                continue
            yield operation
            done.add(id(operation))
        if len(taken) == count:
            return
