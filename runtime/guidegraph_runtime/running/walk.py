"""Walk a bundle's plan: its operations in order, and the bodies of its loops once per iteration.

The walk orders the operations, and `Operations` computes their results. There are three ways to use it: `Computation`
runs the graphs; `Rehearsal` finds shapes without them; `OpenRun` holds a computation between two pauses.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.declare.choice_words import CHOOSE
from guidegraph_runtime.limits import TripCount
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.choices import has_choices
from guidegraph_runtime.running.values import Loop, Values

Results: TypeAlias = Mapping[str, Any]
"""The results of an operation, by the names of the plan's values."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A place in the walk of a plan: before a graph, between iterations of a loop, or after an operation.

    depth: the number of loops around the operation. count, total: the iterations of the loop that are done, and all of
    them.
    """

    kind: Literal["part", "iteration", "done"]
    operation: Operation
    depth: int
    count: int = 0
    total: int = 0


Walk: TypeAlias = Generator[Pause, Results | None, None]


class Operations(Protocol):
    """The results of operations and the items of loops, for a walk.

    check_seconds: raise ``BundleError`` if the run has taken too long. naming: raise errors of a block as a
    ``BundleError`` that names an operation. schedule: the operations to run for some values. find_form: the form of a
    part to run, itself or one of its body. enter_loop: the items of a loop's iterations. leave_loop: the collected
    values as results.
    """

    values: Values
    trips: TripCount

    def check_seconds(self) -> None: ...
    def naming(self, operation: Operation, /) -> AbstractContextManager[None]: ...
    def schedule(self, plan: Sequence[Operation], targets: Sequence[str], /) -> Iterator[Operation]: ...
    def host(self, operation: Operation, /) -> Results: ...
    def find_form(self, operation: Operation, /) -> Operation: ...
    def part(self, operation: Operation, /) -> Results: ...
    def choose(self, operation: Operation, /) -> Results: ...
    def enter_loop(self, loop: Loop, body: Sequence[Operation], /) -> Sequence[Any]: ...
    def leave_loop(self, loop: Loop, collected: Mapping[str, Sequence[Any]], /) -> Results: ...


def walk(
    plan: Iterable[Operation], operations: Operations, targets: Sequence[str] | None = None, depth: int = 0
) -> Walk:
    """Walk a plan, and set its values. Pauses before each graph, around iterations of loops, and after each operation.

    A graph's results may be sent in answer to the pause before it; otherwise it is run. targets: the values to compute,
    by default all of the plan's. Raises ``BundleError`` that names the operation that failed.
    """
    values = operations.values
    for operation in plan if targets is None else operations.schedule([*plan], targets):
        operations.check_seconds()
        with operations.naming(operation):
            if operation.op == "loop":
                with operations.trips.scope():
                    yield from _walk_loop(operation, operations, depth)
            elif operation.op == "part":
                form = operations.find_form(operation) if operation.body else operation
                sent = yield Pause("part", form, depth)
                values.update(operations.part(form) if sent is None else sent)
            elif operation.op == CHOOSE:
                values.update(operations.choose(operation))
            elif operation.op in OPERATIONS:
                values.update(operations.host(operation))
            else:
                raise ValueError("this runtime has no such operation: install the guidegraph-runtime of the export")
            if missing := [name for name in operation.outputs if name not in values]:
                raise ValueError(f"it did not return '{missing[0]}', which bundle.json declares; export again")
        yield Pause("done", operation, depth)


def _walk_loop(operation: Operation, operations: Operations, depth: int) -> Walk:
    loop, values, body = Loop.of(operation), operations.values, operation.body or ()
    items = operations.enter_loop(loop, body)
    total = len(items)
    collected: dict[str, list[Any]] = {name: [] for name in loop.collect}
    targets = [*loop.next.values(), *loop.collect.values()] if has_choices(body) else None
    values.update({link: values.read(start) for link, start in loop.start.items()})
    yield Pause("iteration", operation, depth, 0, total)
    for i in range(total):
        values[loop.index] = i
        # A number keeps an axis of 1, for all samples.
        values[loop.item] = items[i : i + 1] if isinstance(items, np.ndarray) and items.ndim == 1 else items[i]
        yield from walk(body, operations, targets, depth + 1)
        for name, link in loop.collect.items():
            collected[name].append(values.read(link))
        values.update({link: values.read(after) for link, after in loop.next.items()})
        yield Pause("iteration", operation, depth, i + 1, total)
    values.update({name: values.read(link) for name, link in loop.result.items()})
    values.update(operations.leave_loop(loop, collected))
