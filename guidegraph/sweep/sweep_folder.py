"""The folder of a sweep. A cell's folder appears complete, by a rename, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.trust.folder_locks import lock_folder
from guidegraph.sweep.worker import Outcome
from guidegraph_runtime.files.atomic_write import atomic_folder, write_text
from guidegraph_runtime.files.bounded_json import read_json
from guidegraph_runtime.run_json import RECORD, read_record

MAX_OUTPUT_VALUES = 10_000_000
"""How many values a JSON output of a cell may have, which this program wrote."""

SWEEP = "sweep.json"
CELLS = "cells"
FAILED = "failed.json"


class OutputFiles(NamedTuple):
    """The files of an output, and its type."""

    type: str
    files: list[str]


class EndedCell(NamedTuple):
    """A cell that ended, with its outputs by name."""

    outcome: Outcome
    outputs: dict[str, OutputFiles]


class Store:
    """The files of a sweep, in ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._cells = folder / CELLS

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Context manager: lock the folder, and remove unfinished cells of a killed sweep.

        The system releases the lock when the process ends, however it ends. Raises ``WorkflowError`` where another
        process holds it.
        """
        with lock_folder(self.folder, "guidegraph sweep"):
            for path in self._cells.glob(".*/"):
                shutil.rmtree(path)
            yield

    def read_description(self) -> dict[str, Any] | None:
        """Read ``sweep.json``; None if there is none. Raises ``WorkflowError`` if it cannot be read."""
        path = self.folder / SWEEP
        try:
            data = read_json(path)
            if not isinstance(data, dict) or not isinstance(data.get("workflow"), dict):
                raise ValueError("no description of a sweep")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            message = f"cannot be read: {error}; give another folder"
            raise WorkflowError([Problem(Mark(str(path), 1, 1), "another-sweep", message)]) from error
        return data

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Write ``sweep.json``."""
        write_text(self.folder / SWEEP, json.dumps(description, indent=2) + "\n")

    def cell(self, key: str) -> Path:
        """The folder of a cell, which may not exist."""
        return self._cells / key

    def read_cell(self, key: str) -> EndedCell | None:
        """Read how a cell ended; None if it did not run, its record or JSON is damaged, or a file is missing."""
        records = (read_record(self.cell(key) / name) for name in (RECORD, FAILED))  # the latter if it did not start
        if (record := next((record for record in records if record is not None), None)) is None:
            return None
        try:
            outputs = {
                name: OutputFiles(output["type"], output["files"]) for name, output in record.get("outputs", {}).items()
            }
            seconds, status = float(record["seconds"]), record["status"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if status != "done":
            return EndedCell(Outcome("failed", seconds, str(record.get("error") or "")), {})
        complete = all(_is_readable(self.cell(key) / name) for output in outputs.values() for name in output.files)
        return EndedCell(Outcome("done", seconds), outputs) if complete else None

    def make_cell(self, key: str, make: Callable[[Path], Outcome]) -> Outcome:
        """Make a cell in a new folder, which then takes the place of an earlier one, which failed.

        A record that still says ``running`` could not be finished (on a full disk, say); ``failed.json`` replaces it.
        """
        with atomic_folder(self.cell(key)) as folder:
            outcome = make(folder)
            if outcome.status == "failed" and (read_record(folder / RECORD) or {}).get("status") != "failed":
                (folder / RECORD).unlink(missing_ok=True)
                record = {"status": "failed", "error": outcome.message, "seconds": round(outcome.seconds, 6)}
                write_text(folder / FAILED, json.dumps(record, indent=2) + "\n")
        return outcome


def _is_readable(path: Path) -> bool:
    """Whether a file exists, and parses if it is JSON, from which the table is made."""
    if path.suffix != ".json":
        return path.is_file()
    try:
        read_json(path, max_values=MAX_OUTPUT_VALUES)
    except (OSError, ValueError):
        return False
    return True
