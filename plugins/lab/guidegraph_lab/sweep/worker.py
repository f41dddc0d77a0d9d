"""A worker, which runs cells one after the other and keeps its models between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled, OutOfTime, describe_failure
from guidegraph.graph.events import Event, PartAccelerated
from guidegraph.graph.execution.cache import MemoryCache, Values
from guidegraph.graph.late import torch
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.sources import Output
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.observers import acceleration_line
from guidegraph.session import Prepared, Session
from guidegraph_lab.sweep.cells import Cell
from guidegraph_runtime.machine.memory import machine_memory

KEPT_FOR = 8


class SharedValues(MemoryCache):
    """A cache of values that cells can share with bit-identical results.

    Calls of a batchable node may be merged, and a batch of two may differ from two batches of one in the last bit. So
    neither such calls nor anything downstream of them are cached: each cell makes the same calls as it would alone.
    A value that ``KEPT_FOR`` cells have not used is dropped.
    """

    def __init__(self, limit: int):
        super().__init__(limit)
        self._allowed: frozenset[str] = frozenset()
        self._used: dict[str, int] = {}
        self._cell = 0

    def begin(self, plan: Plan) -> None:
        """Begin the next cell, which follows this plan."""
        self._allowed = shareable_digests(plan)
        self._cell += 1
        for digest in [d for d, cell in self._used.items() if cell < self._cell - KEPT_FOR]:
            del self._used[digest]
            self.drop(digest)

    def get(self, digest: str) -> Values | None:
        if digest not in self._allowed or (values := super().get(digest)) is None:
            return None
        self._used[digest] = self._cell
        return values

    def put(self, digest: str, values: Values) -> None:
        if digest in self._allowed:
            self._used[digest] = self._cell
            super().put(digest, values)


def shareable_digests(plan: Plan) -> frozenset[str]:
    """The digests of operations that are not batchable and depend on no batchable call."""
    shareable_keys: set[str] = set()
    for key, op in plan.ops.items():
        is_batchable = not op.has_blocks and bool(op.spec.batchable)
        if not is_batchable and all(s.op in shareable_keys for s in op.sources() if isinstance(s, Output)):
            shareable_keys.add(key)
    return frozenset(plan.digests[key] for key in shareable_keys)


def memory_limit(device: str, workers: int) -> int:
    """The cache limit of one worker in bytes: three quarters of its portion of the device's memory."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory) * 3 // 4
    return max(2 << 30, (machine_memory() or 0) * 3 // 4 // max(workers, 1))


Status: TypeAlias = Literal["done", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; ``message`` says why it failed."""

    status: Status
    seconds: float
    message: str = ""


class Worker:
    """Runs the cells of a workflow. workers: the number on this machine."""

    def __init__(self, session: Session, manager: PluginManager, warn: Callable[[str], object], workers: int = 1):
        self._session, self._manager, self._warn = session, manager, warn
        self._memory = SharedValues(memory_limit(session.config.device, workers))

    def run(self, cell: Cell, cancel: CancelToken, folder: Path) -> Outcome:
        """Run one cell into an existing folder. Raises ``Cancelled``; any other error becomes the outcome."""
        started = time.perf_counter()
        try:
            recorded = Prepared(self._session, cell.values).record(folder)
            plugins = self._manager.observers(self._session.graph, cell.values, self._session.config, self._warn)
            observers = [self._report_export, *plugins]
            recorded.run(observers, cancel, self._memory)
        except Cancelled as error:
            if not isinstance(error, OutOfTime):
                raise
            return Outcome("failed", time.perf_counter() - started, str(error))
        except Exception as error:
            return Outcome("failed", time.perf_counter() - started, describe_failure(error))
        return Outcome("done", time.perf_counter() - started)

    def _report_export(self, event: Event) -> None:
        """Say that an accelerated part is exported, since the cell takes longer then."""
        if isinstance(event, PartAccelerated) and event.state != "refused":  # a refusal is a warning already
            self._warn(acceleration_line(event))
