"""A worker, which runs cells one after the other and keeps its models between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled, OutOfTime, describe_failure
from guidegraph.plugins.hookspecs import RunInfo
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.run import Job, RecordedRun
from guidegraph.sweep.cells import Cell
from guidegraph.sweep.shared_values import SharedValues, memory_limit

Status: TypeAlias = Literal["done", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; ``message`` says why it failed."""

    status: Status
    seconds: float
    message: str = ""


class Worker:
    """Runs cells. job: common to all cells, which replace its values. workers: the number on this machine."""

    def __init__(self, job: Job, manager: PluginManager, warn: Callable[[str], object], workers: int = 1):
        self._job, self._manager, self._warn = job, manager, warn
        self._memory = SharedValues(memory_limit(job.device, workers))

    def run(self, cell: Cell, folder: Path, cancel: CancelToken) -> Outcome:
        """Run one cell into an existing folder. Raises ``Cancelled``; any other error becomes the outcome."""
        started = time.perf_counter()
        try:
            recorded = RecordedRun(replace(self._job, values=cell.values), folder)
            info = RunInfo(self._job.graph, cell.values, self._job.device, self._job.dtype)
            recorded.run(self._manager.observers(info, self._warn), cancel, self._memory.begin)
        except Cancelled as error:
            if not isinstance(error, OutOfTime):
                raise
            return Outcome("failed", time.perf_counter() - started, str(error))
        except Exception as error:
            return Outcome("failed", time.perf_counter() - started, describe_failure(error))
        return Outcome("done", time.perf_counter() - started)
