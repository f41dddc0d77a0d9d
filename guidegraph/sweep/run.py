"""A sweep from its grid to its folder: what is missing is run, then the table and the sheet are made of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from guidegraph.graph.events import CancelToken
from guidegraph.plugins.manager import PluginManager
from guidegraph.record import versions
from guidegraph.recorded import Job
from guidegraph.sweep.cells import Cell, cell_key
from guidegraph.sweep.describe import check_same_workflow, description
from guidegraph.sweep.grid import Grid
from guidegraph.sweep.local import run_here
from guidegraph.sweep.ray_workers import LOCAL, Cluster, connected, local_workers, run_on_ray
from guidegraph.sweep.remote import Order
from guidegraph.sweep.sheet import write_sheet
from guidegraph.sweep.store import Store
from guidegraph.sweep.table import rows_of, write_tables
from guidegraph.sweep.worker import Outcome, Worker

Report = Callable[[Cell, Outcome, int], None]


@dataclass(frozen=True)
class Sweep:
    """``job`` is what all cells have in common. settings: the texts of ``--set``. cluster: None for a loop here.

    plugins: modules beside the installed ones, which are left out where ``installed`` is false.
    """

    job: Job
    grid: Grid
    settings: Mapping[str, str]
    plugins: tuple[str, ...]
    installed: bool
    cluster: Cluster | None


@dataclass(frozen=True)
class Summary:
    """How many different cells there are, how many of them are done, failed, and were done before."""

    cells: int
    done: int
    failed: int
    before: int


class Results:
    """What ``write`` writes of the cells that there are: now and then while they come, and at the end.

    A sweep that is killed, or not yet through, has a table too. A tenth of the time goes there at most.
    """

    def __init__(self, write: Callable[[], object], every: float = 60.0):
        self._write, self._every = write, every
        self._next = time.monotonic() + every

    def so_far(self) -> None:
        """Write, if it is time. What is in the way, such as a program that holds the table open, is said at the end."""
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


def cells_of(job: Job, grid: Grid, cancel: CancelToken) -> list[Cell]:
    """All cells, in the order of the grid. Rows of a table that say the same have the same key."""
    found = []
    for swept in grid.points():
        cancel.check()
        values = {**grid.base, **swept}
        ordered = {name: values[name] for name in job.graph.params}
        found.append(Cell(cell_key(replace(job, values=ordered)), swept, ordered))
    return found


def run_sweep(
    sweep: Sweep,
    folder: Path,
    manager: PluginManager,
    cancel: CancelToken,
    started: Callable[[int, int], None],
    finished: Report,
    warn: Callable[[str], object],
) -> Summary:
    """Run the cells that ``folder`` has not, and write the table and the sheet of all.

    started: called with the number of cells and of those that are to be run; finished: with each cell that ended, and
    how many are to come. A cell that fails is no error. Raises ``Cancelled``, the table written, and ``WorkflowError``
    for a folder that another sweep uses.
    """
    store = Store(folder)
    with store.held():
        check_same_workflow(store, sweep.job)
        cells = cells_of(sweep.job, sweep.grid, cancel)
        unique = {cell.key: cell for cell in reversed(cells)}
        outcomes = {key: ended.outcome if (ended := store.ended(key)) else None for key in unique}
        missing = {c.key: c for c in cells if (o := outcomes[c.key]) is None or o.status != "done"}
        with _place(sweep, len(missing)):
            store.describe(description(sweep.job, sweep.grid, sweep.settings, _where(sweep)))
            started(len(unique), len(missing))
            left = len(missing)
            results = Results(lambda: write_results(store, sweep.grid, cells))
            try:
                for cell, outcome in _run(sweep, missing, store, manager, cancel, warn):
                    left -= 1
                    outcomes[cell.key] = outcome
                    finished(cell, outcome, left)
                    results.so_far()
            finally:
                results.write()
    ends = [outcome.status for outcome in outcomes.values() if outcome is not None]
    return Summary(len(unique), ends.count("done"), ends.count("failed"), len(unique) - len(missing))


def write_results(store: Store, grid: Grid, cells: list[Cell]) -> None:
    """The table and the sheet of the cells that there are."""
    rows = rows_of(store, cells)
    write_tables(store.folder, grid.names, [row for row in rows if row is not None])
    write_sheet(store.folder, grid, cells, rows)


def _place(sweep: Sweep, missing: int) -> AbstractContextManager[None]:
    return connected(sweep.cluster) if sweep.cluster is not None and missing else nullcontext()


def _where(sweep: Sweep) -> dict[str, Any]:
    cluster = sweep.cluster
    return {
        "only": sweep.job.only,
        "plugins": list(sweep.plugins),
        "ray": None if cluster is None else cluster.address,
        "workers": 1 if cluster is None else cluster.workers,
    }


def _run(
    sweep: Sweep,
    missing: Mapping[str, Cell],
    store: Store,
    manager: PluginManager,
    cancel: CancelToken,
    warn: Callable[[str], object],
) -> Iterator[tuple[Cell, Outcome]]:
    if not missing:
        return iter(())
    job = sweep.job
    if sweep.cluster is None:
        return run_here(missing.values(), Worker(job, manager, warn), store, cancel)
    order = Order(
        job.graph.file,
        dict(job.graph.sources),
        job.only,
        job.device,
        job.dtype,
        sweep.plugins,
        sweep.installed,
        versions(job.registry),
        local_workers(sweep.cluster) if sweep.cluster.address == LOCAL else sweep.cluster.workers,
        policy=job.policy,
    )
    return run_on_ray(missing.values(), order, sweep.cluster, store, cancel)
