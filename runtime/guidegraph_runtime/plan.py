"""Running a bundle's plan: host operations, the graphs of its parts, and loops around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.host import OPERATIONS
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest_types import Operation, Part, Tensor
from guidegraph_runtime.memory import Memory, arguments
from guidegraph_runtime.names import BATCH

Array = NDArray[Any]
Progress = Callable[[str, int, int], None]


class Runs(Protocol):
    """What runs a part: arrays by name to arrays by name."""

    def __call__(self, part: str, inputs: Mapping[str, Array]) -> Mapping[str, Array]: ...


@dataclass
class PlanRun:
    """One run of a plan.

    where: the bundle, for errors. parts: their inputs and outputs. run_part: runs one. progress: is told of each
    iteration of a loop: its node, how many are done, and of how many. seconds: spent in each part and operation.
    """

    where: str
    parts: Mapping[str, Part]
    run_part: Runs
    files: Callable[[str], bytes]
    memory: Memory = field(default_factory=Memory)
    progress: Progress | None = None

    def run(self, plan: Sequence[Operation]) -> None:
        """Run operations in order. Raises ``BundleError`` that names the one that failed."""
        for operation in plan:
            try:
                self._one(operation)
            except (ValueError, TypeError, OSError, KeyError, IndexError, ArithmeticError) as error:
                message = f"{operation.node} ({operation.op}): {error}"
                raise BundleError(self.where, "operation-failed", message) from error

    def _one(self, operation: Operation) -> None:
        if operation.op == "loop":
            self._loop(operation)
        elif operation.op == "part":
            self._part(operation)
        else:
            self._host(operation)

    def _host(self, operation: Operation) -> None:
        if operation.op not in OPERATIONS:
            raise ValueError("this runtime has no such operation: install the guidegraph-runtime of the export")
        given = {name: self._setting(value) for name, value in operation.settings.items()}
        found = OPERATIONS[operation.op](**arguments(self.memory, operation.inputs), **given)
        for name, value in found.items():
            self.memory.keep(operation.node if name == "out" else f"{operation.node}.{name}", value)

    def _setting(self, value: Any) -> Any:
        """A literal with the bytes of the bundle's files in it."""
        if isinstance(value, list):
            return [self._setting(one) for one in value]
        if not isinstance(value, dict):
            return value
        if [*value] == ["file"]:
            return self.files(value["file"])
        return {name: self._setting(one) for name, one in value.items()}

    def _part(self, operation: Operation) -> None:
        part = self.parts[operation.node]
        check_fields(operation, self.memory)
        given = {name: np.asarray(self.memory.read(at)) for name, at in operation.inputs.items()}
        self.memory.update(self.run_part(operation.node, fitted(part, given)))

    def _loop(self, operation: Operation) -> None:
        loop, memory, body = Loop.of(operation), self.memory, operation.body or ()
        over = memory.read(loop.over) if isinstance(loop.over, str) else loop.over
        rows = range(over) if isinstance(over, int) else over
        memory.update({at: memory.read(start) for at, start in loop.start.items()})
        collected: dict[str, list[Any]] = {name: [] for name in loop.collect}
        for i in range(len(rows)):
            memory[loop.index] = i
            memory[loop.item] = rows[i : i + 1] if isinstance(rows, np.ndarray) and rows.ndim == 1 else rows[i]
            self.run(body)
            for name, at in loop.collect.items():
                collected[name].append(memory.read(at))
            memory.update({at: memory.read(after) for at, after in loop.next.items()})
            if self.progress is not None:
                self.progress(operation.node, i + 1, len(rows))
        memory.update({name: memory.read(at) for name, at in loop.result.items()})
        memory.update({name: np.stack(values) for name, values in collected.items()})


def fitted(part: Part, given: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays in the dtypes and with the axes that a part takes.

    What has a leading axis of 1 serves the whole batch. What has fewer axes than the part takes, such as a sampler's
    memory before its first step, is the same along the axes that follow.
    """
    sizes = _sizes(part, given)
    found = {}
    for tensor in part.inputs:
        array = given[tensor.name].astype(tensor.dtype, copy=False)
        wanted = tuple(sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in tensor.dims)
        if array.shape != wanted:
            array = _spread(tensor, array, wanted)
        found[tensor.name] = np.asarray(array, order="C")
    return found


def _sizes(part: Part, given: Mapping[str, Array]) -> dict[str, int]:
    """The size of each named axis. A batch of 1 goes with any."""
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in part.inputs:
        array = given[tensor.name]
        if array.ndim != len(tensor.dims):
            continue
        for name, size in zip(tensor.dims, array.shape, strict=True):
            if not isinstance(name, str) or (name == BATCH and size == 1):
                continue
            known, owner = sizes.setdefault(name, (int(size), tensor.name))
            if known != size:
                raise ValueError(
                    f"'{name}' is {known} in '{owner}' and {size} in '{tensor.name}', which this graph takes of one "
                    "size: give values that agree (prompts of as many tokens, say), or export the workflow with an "
                    "example in which they differ, which leaves each free"
                )
    return {name: size for name, (size, _) in sizes.items()}


def check_fields(operation: Operation, memory: Memory) -> None:
    """Raises ``ValueError`` where a value has a plain field that is not the one with which a part was traced."""
    expected: Any = operation.settings.get("fields", {})
    for name, one in expected.items():
        if name in memory and memory[name] != one["is"]:
            why = f": {one['why']}" if "why" in one else ""
            raise ValueError(
                f"'{name}' is {memory[name]!r} and the graph was traced with {one['is']!r}{why}; give settings that "
                "keep it, or export the workflow with these"
            )


def _spread(tensor: Tensor, array: Array, wanted: Sequence[int]) -> Array:
    few = array.ndim < len(wanted)
    shape = array.shape + (1,) * (len(wanted) - array.ndim)
    if len(shape) != len(wanted) or not all(
        size == want or (size == 1 and (few or dim == BATCH))
        for size, want, dim in zip(shape, wanted, tensor.dims, strict=True)
    ):
        raise ValueError(f"'{tensor.name}' has shape {array.shape} where {tuple(wanted)} is due: sizes must agree")
    return np.broadcast_to(array.reshape(shape), tuple(wanted))


def operations(plan: Iterable[Operation]) -> Iterable[Operation]:
    """All operations of a plan, those of bodies after their loops."""
    for operation in plan:
        yield operation
        yield from operations(operation.body or ())
