"""A sweep from grid to folder: missing cells are run, then the table and the contact sheet of all are written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.run import collect_versions
from guidegraph.session import Session
from guidegraph_lab.sweep.cells import Cell, cell_key
from guidegraph_lab.sweep.contact_sheet import write_sheet
from guidegraph_lab.sweep.grid import Grid
from guidegraph_lab.sweep.ray_cluster import LOCAL, Cluster, connect_ray, local_workers, run_on_ray
from guidegraph_lab.sweep.ray_worker import SweepOrder
from guidegraph_lab.sweep.sweep_folder import Store, check_same_workflow, describe_sweep
from guidegraph_lab.sweep.table import read_rows, write_tables
from guidegraph_lab.sweep.worker import Outcome, Worker

Report = Callable[[Cell, Outcome, int], None]


@dataclass(frozen=True)
class Sweep:
    """A sweep to run. settings: the texts of ``--set``. cluster: None to run in this process."""

    session: Session
    grid: Grid
    settings: Mapping[str, str]
    plugins: PluginSelection
    cluster: Cluster | None


@dataclass(frozen=True)
class Summary:
    """The number of distinct cells, and of those done, failed, and done before this sweep."""

    cells: int
    done: int
    failed: int
    before: int


class Results:
    """Calls ``write`` at intervals while cells finish, and at the end.

    So an unfinished or killed sweep has a table too. Writing takes at most a tenth of the time.
    """

    def __init__(self, write: Callable[[], object], every: float = 60.0):
        self._write, self._every = write, every
        self._next = time.monotonic() + every

    def write_if_due(self) -> None:
        """Write if it is due. An ``OSError`` (a program holds the table open, say) is ignored, except at the end."""
        if time.monotonic() >= self._next:
            with suppress(OSError):
                self.write()

    def write(self) -> None:
        started = time.monotonic()
        try:
            self._write()
        finally:
            now = time.monotonic()
            self._next = now + max(self._every, 9 * (now - started))


def make_cells(sweep: Sweep, cancel: CancelToken) -> list[Cell]:
    """All cells, in the order of the grid. Equal rows of a table have equal keys.

    Raises ``WorkflowError`` if the policy forbids a file of any cell, and for a problem that all cells have. A cell
    with a problem of its own fails when it is run.
    """
    session = sweep.session
    cells = []
    refused: set[Problem] | None = None  # by the problems that all cells have so far
    for swept in sweep.grid.points():
        cancel.check()
        values = {**sweep.grid.base, **swept}
        ordered = {name: values[name] for name in session.graph.params}
        if forbidden := session.list_forbidden(ordered):
            raise WorkflowError(forbidden)
        if refused is None or refused:
            problems = {*session.list_problems(ordered)}
            refused = problems if refused is None else refused & problems
        cells.append((swept, ordered))
    if refused:
        raise WorkflowError(refused)
    return [Cell(cell_key(session.graph, values, session.config), swept, values) for swept, values in cells]


def run_sweep(
    sweep: Sweep,
    folder: Path,
    manager: PluginManager,
    cancel: CancelToken,
    started: Callable[[int, int], None],
    finished: Report,
    warn: Callable[[str], object],
) -> Summary:
    """Run the cells missing from ``folder``, and write the table and the contact sheet of all.

    started: called with the number of cells and of those to run. finished: called with each cell that ended, and the
    number of those remaining. A failing cell raises nothing. Raises ``Cancelled`` after writing the table, and
    ``WorkflowError`` for a folder of another sweep.
    """
    store = Store(folder)
    with store.hold():
        check_same_workflow(store, sweep.session.graph)
        cells = make_cells(sweep, cancel)
        unique = {cell.key: cell for cell in reversed(cells)}
        outcomes = {key: stored.outcome if (stored := store.read_cell(key)) else None for key in unique}
        missing = {c.key: c for c in cells if (o := outcomes[c.key]) is None or o.status != "done"}
        with connect_ray(sweep.cluster) if sweep.cluster is not None and missing else nullcontext():
            store.write_description(_describe(sweep, len(unique), manager))
            started(len(unique), len(missing))
            remaining = len(missing)
            results = Results(lambda: write_results(store, sweep.grid, cells))
            try:
                for cell, outcome in _run(sweep, missing, store, manager, cancel, warn):
                    remaining -= 1
                    outcomes[cell.key] = outcome
                    finished(cell, outcome, remaining)
                    results.write_if_due()
            except BaseException:
                with suppress(Exception):  # the first error is the one to report
                    results.write()
                raise
            results.write()
    statuses = [outcome.status for outcome in outcomes.values() if outcome is not None]
    return Summary(len(unique), statuses.count("done"), statuses.count("failed"), len(unique) - len(missing))


def write_results(store: Store, grid: Grid, cells: list[Cell]) -> None:
    """Write the table and the contact sheet of the cells that have ended."""
    rows = read_rows(store, cells)
    write_tables(store.folder, grid.names, [row for row in rows if row is not None])
    write_sheet(store.folder, grid, cells, rows)


def _describe(sweep: Sweep, cells: int, manager: PluginManager) -> dict[str, Any]:
    cluster = sweep.cluster
    execution = {
        "plugins": list(sweep.plugins.modules),
        "ray": None if cluster is None else cluster.address,
        "workers": 1 if cluster is None else cluster.workers,
    }
    graph, config = sweep.session.graph, sweep.session.config
    return describe_sweep(graph, manager.registry, config, sweep.grid, cells, sweep.settings, execution)


def _run(
    sweep: Sweep,
    missing: Mapping[str, Cell],
    store: Store,
    manager: PluginManager,
    cancel: CancelToken,
    warn: Callable[[str], object],
) -> Iterator[tuple[Cell, Outcome]]:
    """Run cells, storing each before the next starts. Raises ``Cancelled``."""
    session, cluster = sweep.session, sweep.cluster
    if not missing:
        return
    if cluster is None:  # in this process, one after the other
        worker = Worker(session, manager, warn)
        for cell in missing.values():
            cancel.check()
            yield cell, store.make_cell(cell.key, partial(worker.run, cell, cancel))
        return
    order = SweepOrder(
        session.graph.file,
        dict(session.graph.sources),
        session.config,
        sweep.plugins,
        collect_versions(manager.registry, session.config.accelerate),
        local_workers(cluster) if cluster.address == LOCAL else cluster.workers,
    )
    yield from run_on_ray(missing.values(), order, cluster, store, cancel)
