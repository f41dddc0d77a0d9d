"""A worker process on Ray: it builds the workflow once, then runs the cells that it is sent.

Only texts and numbers are sent, and a cell's files come back as bytes, so the machines need no shared disk.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import WorkflowError, describe_failure
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.late import torch
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.limits import enforce_limits
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.run import collect_versions
from guidegraph.session import Session
from guidegraph_lab.sweep.cells import Cell, cell_key
from guidegraph_lab.sweep.worker import Outcome, Worker
from guidegraph_runtime.files.atomic_write import write_bytes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOrder:
    """Everything that the cells of a sweep have in common, as sent to the workers.

    sources: the texts of the workflow and of those that it uses, by path. workers: the maximum number on one machine;
    None for one per core.
    """

    workflow: Path
    sources: dict[str, str]
    config: RunConfig
    plugins: PluginSelection
    versions: dict[str, str]
    workers: int | None


@dataclass(frozen=True)
class CellResult:
    """The outcome of a cell, and its files by name."""

    outcome: Outcome
    files: dict[str, bytes]

    def write(self, folder: Path) -> Outcome:
        """Write the files into a folder."""
        for name, data in self.files.items():
            write_bytes(folder / name, data)
        return self.outcome


class _Process:
    """The state of a worker process: one sweep at a time."""

    def __init__(self, order: SweepOrder):
        torch.set_num_threads(1)  # there is one worker per core
        self.order, config = order, order.config
        self.manager = PluginManager(order.plugins.modules, entry_points=order.plugins.installed)
        registry = self.manager.registry
        graph = build(order.workflow, registry, order.sources, config.limits, stranger=config.policy.stranger)
        self.session = Session(graph, config, registry)
        self.worker = Worker(self.session, self.manager, log.warning, order.workers or os.cpu_count() or 1)

    def make(self, key: str, params: Mapping[str, Any]) -> CellResult:
        graph, config = self.session.graph, self.session.config
        values = bind(graph, params)
        if forbidden := self.session.list_forbidden(values):
            raise WorkflowError(forbidden)
        if cell_key(graph, values, config) != key:
            own, sent = collect_versions(self.manager.registry, config.accelerate), self.order.versions
            names = [n for n in sorted({*own, *sent}) if own.get(n) != sent.get(n) and n not in ("platform", "machine")]
            differences = [f"{n} {own.get(n, 'missing')} in place of {sent.get(n, 'missing')}" for n in names]
            unknown = "a file that the workflow reads, or the code of a node, differs or is not there"
            reason = ", ".join(differences) or unknown
            message = f"this worker's machine is not like the one that the sweep was started on: {reason}"
            return CellResult(Outcome("failed", 0.0, message), {})
        with tempfile.TemporaryDirectory(prefix="guidegraph-") as name:
            folder = Path(name)
            outcome = self.worker.run(Cell(key, {}, values), CancelToken(), folder)
            files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return CellResult(outcome, files)


_process: _Process | None = None


def run_cell(order: SweepOrder, key: str, params: Mapping[str, Any]) -> CellResult:
    """Run one cell in this process. Errors of the process itself also become the cell's outcome."""
    global _process
    try:
        if _process is None or _process.order != order:
            _process = None  # the models of another sweep go first
            _process = _Process(order)
        with enforce_limits(order.config.limits):
            return _process.make(key, params)
    except WorkflowError as error:
        return CellResult(Outcome("failed", 0.0, f"on this worker the workflow is wrong: {error}"), {})
    except Exception as error:  # not every exception can be pickled for Ray
        return CellResult(Outcome("failed", 0.0, f"on this worker: {describe_failure(error)}"), {})
