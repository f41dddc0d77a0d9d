"""The record of a run: its result so far, the events that tell its observers of it, and the delivery of outputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from guidegraph.graph import events
from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.loop_context import Attachments, LoopContext
from guidegraph.graph.ir import Op
from guidegraph.graph.planning.plan import OutputSource
from guidegraph.graph.planning.steps import BlockPlan, Slot
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.values.ownership import copy_module, copy_value


def node_path(key: str) -> str:
    """The path of an operation in the workflow."""
    return f"nodes.{key}"


class RunRecord:
    """The result of a run so far. Whatever is recorded is also sent to the observers as an event."""

    def __init__(self, observers: Sequence[events.Observer]):
        self.observers = tuple(observers)
        self.outputs: dict[str, Any] = {}
        self._finished: dict[str, tuple[str, float, events.Origin]] = {}
        self._started = False

    def make_result(self) -> RunResult:
        """The result of the run as far as it is recorded."""
        paths = [node_path(key) for key in self._finished]
        digests, seconds, origins = zip(*self._finished.values(), strict=True) if paths else ((), (), ())
        return RunResult(
            self.outputs,
            dict(zip(paths, digests, strict=True)),
            dict(zip(paths, seconds, strict=True)),
            dict(zip(paths, origins, strict=True)),
        )

    def emit(self, event: events.Event) -> None:
        for observer in self.observers:
            observer(event)

    def start_run(self, workflow: str, total: int) -> None:
        """Record the start of the run, at the first call only."""
        if self.observers and not self._started:
            self.emit(events.RunStarted(workflow, total))
        self._started = True

    def finish_run(self, status: Literal["done", "failed", "cancelled", "stopped"], started: float) -> None:
        """Record the end of the run. started: the time of its start, by ``perf_counter``."""
        if self.observers:
            self.emit(events.RunFinished(status, time.perf_counter() - started))

    def start_nodes(self, ops: Sequence[Op]) -> None:
        for op in ops:
            self.emit(events.NodeStarted(node_path(op.key), op.node_id))

    def finish_node(self, op: Op, digest: str, seconds: float, origin: events.Origin) -> None:
        self._finished[op.key] = (digest, seconds, origin)
        if self.observers:
            self.emit(events.NodeFinished(node_path(op.key), op.node_id, seconds, origin, digest))

    def fail_node(self, error: NodeError) -> None:
        self.emit(events.NodeFailed(error.path, error.node_id, str(error)))

    @contextmanager
    def report_failure(self) -> Iterator[None]:
        """Record a ``NodeError`` that leaves this context as the failure of its node."""
        try:
            yield
        except NodeError as error:
            self.fail_node(error)
            raise

    def report_node_times(self, context: LoopContext) -> None:
        """Record the total time of each node in a loop's body, after the loop has ended or failed."""
        for key, node_time in context.node_times.items():
            self.emit(events.NodeTotals(node_path(key), node_time.node, node_time.calls, node_time.seconds))
        context.node_times.clear()


class Delivery:
    """The outputs of a block that are not handed out yet. waiting: their names by slot."""

    def __init__(
        self,
        outputs: Mapping[str, OutputSource],
        block: BlockPlan,
        config: RunConfig,
        attachments: Attachments,
        record: RunRecord,
    ):
        self.waiting: dict[Slot, list[str]] = {}
        for name, (source, _) in outputs.items():
            self.waiting.setdefault(block.results[source], []).append(name)
        self._outputs, self._config, self._record = outputs, config, record
        self._on_output = attachments.on_output

    def deliver(self, filled: Iterable[Slot], slots: Sequence[Any]) -> None:
        """Hand out a copy of each output whose slot is filled. Under a memory budget its weights are on the CPU."""
        device = None if self._config.memory_budget is None else "cpu"
        for slot in filled:
            for name in self.waiting.pop(slot, ()):
                value = copy_value(slots[slot], lambda module: copy_module(module, device))
                self._record.outputs[name] = value
                if self._on_output is not None:
                    self._on_output(name, value, self._outputs[name][1])
                if self._record.observers:
                    self._record.emit(events.OutputReady(name))


@dataclass
class RunResult:
    """Outputs by name; digests, seconds and origins by the path of each operation that was needed."""

    outputs: dict[str, Any]
    digests: dict[str, str]
    seconds: dict[str, float]
    origins: dict[str, events.Origin]
