"""The host prelude of a workflow that is one graph: operations before the graph, and random numbers drawn for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from guidegraph.graph.export.errors import ExportError, raise_together
from guidegraph_runtime.bundle.manifest_types import Operation, walk_operations
from guidegraph_runtime.operations import shapes_read_by
from guidegraph_runtime.running.values import Loop

BUNDLE_REMEDY = "export a bundle instead, which can do it: leave out --single-file"


@dataclass(frozen=True)
class DrawnInput:
    """Random numbers as an input of the graph: shaped like a value inside it, or new for each iteration, or both."""

    operation: Operation
    loop: Loop | None

    @property
    def name(self) -> str:
        return self.operation.outputs[0]

    @property
    def shaped_like(self) -> str | None:
        """The name of the value whose shape the numbers have; None if the operation has a shape of its own."""
        inputs = self.operation.inputs
        return next((inputs[port] for port in shapes_read_by(self.operation.op) if port in inputs), None)


@dataclass
class HostPrelude:
    """operations: run before the graph, in order. drawn_inputs: random numbers whose shape or count the graph sets."""

    operations: list[Operation] = field(default_factory=list)
    drawn_inputs: dict[str, DrawnInput] = field(default_factory=dict)


def plan_prelude(plan: Sequence[Operation], available: set[str]) -> HostPrelude:
    """The host operations of a plan, including those in loop bodies. available: the names of values known at the start.

    Raises ``ExportError`` for the operations that need a result of the graph.
    """
    prelude = HostPrelude()
    refused: list[ExportError] = []
    available = set(available)
    for operation, loops in _walk_host_operations(plan, ()):
        if available.issuperset(operation.inputs.values()):
            prelude.operations.append(operation)
            available |= set(operation.outputs)
            continue
        index = operation.inputs.get("index")
        loop = next((candidate for candidate in loops if index in (candidate.index, candidate.item)), None)
        unknown = {port: name for port, name in operation.inputs.items() if name not in available}
        shapes = shapes_read_by(operation.op)
        if not shapes or unknown.keys() - {*shapes, "index"} or ("index" in unknown and loop is None):
            reason = (
                f"nodes.{operation.node} ({operation.op}) runs on the host and takes '{min(unknown.values())}', which "
                "the graph computes"
            )
            refused.append(ExportError(reason, BUNDLE_REMEDY))
            continue
        draw = DrawnInput(operation, loop)
        prelude.drawn_inputs[draw.name] = draw
    raise_together(refused)
    return prelude


def check_indices(prelude: HostPrelude, host_values: Mapping[str, Any]) -> None:
    """Raise ``ExportError`` for random numbers whose index is an item, unless their loop runs over a number."""
    refused: list[ExportError] = []
    for draw in prelude.drawn_inputs.values():
        operation, loop = draw.operation, draw.loop
        if loop is None or operation.inputs.get("index") != loop.item or isinstance(loop.over, int):
            continue
        if np.ndim(host_values.get(loop.over, ())):
            reason = (
                f"nodes.{operation.node} ({operation.op}) takes '{loop.item}', an item of '{loop.over}', as its index; "
                "a graph's random numbers take the number of the iteration"
            )
            refused.append(ExportError(reason, "give it the loop's index, or " + BUNDLE_REMEDY))
    raise_together(refused)


def count_iterations(loop: Loop, tables: Mapping[str, Any]) -> int | None:
    """The number of a loop's iterations, if it is the same in every run. tables: the values that are."""
    if isinstance(loop.over, int):
        return loop.over
    if loop.over not in tables:
        return None
    return len(tables[loop.over]) if np.ndim(tables[loop.over]) else int(tables[loop.over])


def _walk_host_operations(
    plan: Sequence[Operation], loops: tuple[Loop, ...]
) -> Iterator[tuple[Operation, tuple[Loop, ...]]]:
    for operation in plan:
        if operation.op == "loop":
            yield from _walk_host_operations(operation.body or (), (*loops, Loop.of(operation)))
        elif operation.op != "part":
            yield operation, loops


Dims = tuple[int | str, ...]


@dataclass(frozen=True)
class PartReader:
    """A part that reads a value: its port, and the value's dtype and dims there."""

    part: Operation
    port: str
    dtype: str
    dims: Dims


def find_readers(
    plan: Sequence[Operation], parts: Mapping[str, Mapping[str, tuple[str, Dims]]]
) -> dict[str, PartReader]:
    """For each value the first part that reads it; for a loop's start value, the reader of the carried value.

    parts: dtype and dims of the used inputs of each part.
    """
    readers_by_value: dict[str, PartReader] = {}
    for operation in walk_operations(plan):
        if operation.op == "part":
            for port, name in operation.inputs.items():
                if port in parts[operation.node]:
                    readers_by_value.setdefault(name, PartReader(operation, port, *parts[operation.node][port]))
    for operation in reversed([*walk_operations(plan)]):
        if operation.op == "loop":
            for carry, start in Loop.of(operation).start.items():
                if carry in readers_by_value:
                    readers_by_value.setdefault(start, readers_by_value[carry])
    return readers_by_value
