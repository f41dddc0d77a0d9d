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
from guidegraph.graph.ir import Graph
from guidegraph.graph.run_config import RunConfig
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.observers import acceleration_line
from guidegraph.runs.run import RecordedRun
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
    """Runs the cells of a workflow. workers: the number on this machine."""

    def __init__(
        self, graph: Graph, config: RunConfig, manager: PluginManager, warn: Callable[[str], object], workers: int = 1
    ):
        self._graph, self._config, self._manager, self._warn = graph, config, manager, warn
        self._memory = SharedValues(memory_limit(config.device, workers))

    def run(self, cell: Cell, cancel: CancelToken, folder: Path) -> Outcome:
        """Run one cell into an existing folder. Raises ``Cancelled``; any other error becomes the outcome."""
        graph, config = self._graph, self._config
        started = time.perf_counter()
        try:
            recorded = RecordedRun(graph, self._manager.registry, cell.values, config, folder)
            plugins = self._manager.observers(graph, cell.values, config, self._warn)
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
