"""A sweep as a loop in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from guidegraph.graph.cancellation import CancelToken
from guidegraph.sweep.cells import Cell
from guidegraph.sweep.sweep_folder import Store
from guidegraph.sweep.worker import Outcome, Worker


def run_locally(
    cells: Iterable[Cell], worker: Worker, store: Store, cancel: CancelToken
) -> Iterator[tuple[Cell, Outcome]]:
    """Run cells one after the other, storing each before the next starts. Raises ``Cancelled``."""
    for cell in cells:
        cancel.check()
        with store.temporary(cell.key) as folder:
            outcome = worker.run(cell, folder, cancel)
            store.keep(cell.key, folder, outcome)
        yield cell, outcome
