"""The folder of a sweep. A cell's folder appears whole, by a rename, or not at all."""

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
from guidegraph.graph.trust.folders import hold_folder
from guidegraph.outputs import RECORD
from guidegraph.sweep.worker import Outcome
from guidegraph_runtime.files import write_text

SWEEP = "sweep.json"
CELLS = "cells"
FAILED = "failed.json"
_TEMPORARY = ".tmp-"


class Files(NamedTuple):
    """The files of an output, and its type."""

    type: str
    files: list[str]


class Ended(NamedTuple):
    """A cell that ended, with its outputs by name."""

    outcome: Outcome
    outputs: dict[str, Files]


class Store:
    """The files of a sweep, in ``folder``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._cells = folder / CELLS

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, and clear what a sweep that was killed left half-made.

        The system lets go of it when a process ends, however it ends. Raises ``WorkflowError`` where another
        process holds it.
        """
        with hold_folder(self.folder, "guidegraph sweep"):
            self._cells.mkdir(parents=True, exist_ok=True)
            for path in self._cells.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(path)
            yield

    def description(self) -> dict[str, Any] | None:
        """What ``sweep.json`` says; None where there is none. Raises ``WorkflowError`` where it cannot be read."""
        path = self.folder / SWEEP
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or not isinstance(found.get("workflow"), dict):
                raise ValueError("no description of a sweep")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            message = f"cannot be read: {error}; give another folder"
            raise WorkflowError([Problem(Mark(str(path), 1, 1), "another-sweep", message)]) from error
        return found

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write ``sweep.json``."""
        write_text(self.folder / SWEEP, json.dumps(description, indent=2) + "\n")

    def cell(self, key: str) -> Path:
        """The folder of a cell, which may not be there."""
        return self._cells / key

    def ended(self, key: str) -> Ended | None:
        """How a cell ended; None for one that did not run, whose record or JSON is damaged, or that lacks a file."""
        if (record := self._record(key)) is None:
            return None
        try:
            outputs = {
                name: Files(output["type"], output["files"]) for name, output in record.get("outputs", {}).items()
            }
            seconds, status = float(record["seconds"]), record["status"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if status != "done":
            return Ended(Outcome("failed", seconds, str(record.get("error") or "")), {})
        whole = all(_whole(self.cell(key) / name) for output in outputs.values() for name in output.files)
        return Ended(Outcome("done", seconds), outputs) if whole else None

    def _record(self, key: str) -> dict[str, Any] | None:
        """The record of a cell: ``run.json``, or what is there in its place where the run did not begin."""
        for name in (RECORD, FAILED):
            try:
                found = json.loads((self.cell(key) / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(found, dict):
                return found
        return None

    @staticmethod
    def _says_failed(path: Path) -> bool:
        try:
            return bool(json.loads(path.read_text(encoding="utf-8"))["status"] == "failed")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def temporary(self, key: str) -> Iterator[Path]:
        """A folder to make a cell in; it is removed at the end unless it was kept."""
        folder = self._cells / f"{_TEMPORARY}{key}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, key: str, made: Path, outcome: Outcome) -> None:
        """Make a temporary folder the cell's. An earlier one, which failed, is replaced.

        A record that still says ``running`` could not be written at the end, on a full disk say: it makes way for why.
        """
        if outcome.status == "failed" and not self._says_failed(made / RECORD):
            (made / RECORD).unlink(missing_ok=True)
            found = {"status": "failed", "error": outcome.message, "seconds": round(outcome.seconds, 6)}
            write_text(made / FAILED, json.dumps(found, indent=2) + "\n")
        target = self.cell(key)
        if target.exists():
            old = self._cells / f"{_TEMPORARY}{key}-{secrets.token_hex(4)}"
            os.replace(target, old)
            os.replace(made, target)
            shutil.rmtree(old)
        else:
            os.replace(made, target)


def _whole(path: Path) -> bool:
    """Whether a file is there, and can be read where it is JSON, which the table is made of."""
    if path.suffix != ".json":
        return path.is_file()
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
