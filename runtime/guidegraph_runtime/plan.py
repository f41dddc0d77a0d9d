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
from guidegraph_runtime.manifest_types import Operation, Part
from guidegraph_runtime.memory import Memory, arguments

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
        return self.files(value["file"]) if isinstance(value, dict) and [*value] == ["file"] else value

    def _part(self, operation: Operation) -> None:
        part = self.parts[operation.node]
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
    sizes: dict[str, int] = {}
    for tensor in part.inputs:
        array = given[tensor.name]
        if array.ndim == len(tensor.dims):
            for name, size in zip(tensor.dims, array.shape, strict=True):
                if isinstance(name, str):
                    sizes[name] = max(sizes.get(name, 1), int(size))
    found = {}
    for tensor in part.inputs:
        array = given[tensor.name].astype(tensor.dtype, copy=False)
        wanted = tuple(sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in tensor.dims)
        if array.shape != wanted:
            array = _spread(tensor.name, array, wanted)
        found[tensor.name] = np.asarray(array, order="C")
    return found


def _spread(name: str, array: Array, wanted: Sequence[int]) -> Array:
    shape = array.shape + (1,) * (len(wanted) - array.ndim)
    if len(shape) != len(wanted) or any(size not in (1, want) for size, want in zip(shape, wanted, strict=True)):
        raise ValueError(f"'{name}' has shape {array.shape} where {tuple(wanted)} is due: sizes must agree")
    return np.broadcast_to(array.reshape(shape), tuple(wanted))


def operations(plan: Iterable[Operation]) -> Iterable[Operation]:
    """All operations of a plan, those of bodies after their loops."""
    for operation in plan:
        yield operation
        yield from operations(operation.body or ())
