"""The folder of a sweep. A cell's folder appears complete, by a rename, or not at all."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.trust.folder_locks import lock_folder
from guidegraph.runs.outputs import RECORD
from guidegraph.sweep.worker import Outcome
from guidegraph_runtime.files.atomic_write import write_text

SWEEP = "sweep.json"
CELLS = "cells"
FAILED = "failed.json"
_TEMPORARY = ".tmp-"


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
            self._cells.mkdir(parents=True, exist_ok=True)
            for path in self._cells.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(path)
            yield

    def read_description(self) -> dict[str, Any] | None:
        """Read ``sweep.json``; None if there is none. Raises ``WorkflowError`` if it cannot be read."""
        path = self.folder / SWEEP
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
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
        if (record := self._record(key)) is None:
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

    def _record(self, key: str) -> dict[str, Any] | None:
        """The record of a cell: ``run.json``, or ``failed.json`` if the run did not start."""
        for name in (RECORD, FAILED):
            try:
                record = json.loads((self.cell(key) / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(record, dict):
                return record
        return None

    @staticmethod
    def _says_failed(path: Path) -> bool:
        try:
            return bool(json.loads(path.read_text(encoding="utf-8"))["status"] == "failed")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def temporary(self, key: str) -> Iterator[Path]:
        """Context manager: a folder in which to make a cell, removed at the end unless it was kept."""
        folder = self._cells / f"{_TEMPORARY}{key}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, made: Path, outcome: Outcome) -> None:
        """Move a temporary folder to the cell's folder, replacing an earlier one, which failed.

        A record that still says ``running`` could not be finished (on a full disk, say); ``failed.json`` replaces it.
        """
        if outcome.status == "failed" and not self._says_failed(made / RECORD):
            (made / RECORD).unlink(missing_ok=True)
            record = {"status": "failed", "error": outcome.message, "seconds": round(outcome.seconds, 6)}
            write_text(made / FAILED, json.dumps(record, indent=2) + "\n")
        target = self.cell(key)
        if target.exists():
            replaced = self._cells / f"{_TEMPORARY}{key}-{secrets.token_hex(4)}"
            os.replace(target, replaced)
            os.replace(made, target)
            shutil.rmtree(replaced)
        else:
            os.replace(made, target)


def _is_readable(path: Path) -> bool:
    """Whether a file exists, and parses if it is JSON, from which the table is made."""
    if path.suffix != ".json":
        return path.is_file()
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
