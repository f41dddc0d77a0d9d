"""The folder of a sweep. A cell's folder appears complete, by a rename, or not at all."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.node import Registry
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.file_checks import lock_folder
from guidegraph.runs.recipe import portable_params, portable_value
from guidegraph.runs.run import collect_versions, describe_workflow
from guidegraph_lab.sweep.grid import Axis, Grid
from guidegraph_lab.sweep.worker import Outcome
from guidegraph_runtime.files.atomic_write import atomic_folder, write_text
from guidegraph_runtime.files.regular_files import read_json
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


FORMAT = 1


def describe_sweep(
    graph: Graph,
    registry: Registry,
    config: RunConfig,
    grid: Grid,
    cells: int,
    settings: Mapping[str, str],
    execution: Mapping[str, Any],
) -> dict[str, Any]:
    """The description of a sweep.

    cells: the number of distinct cells. execution: the fields on how it is run, such as plugins, Ray and workers.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    table = next((axis for axis in grid.axes if axis.option == "--from"), None)
    axes = {option: [a for a in grid.axes if a.option == option] for option in ("--grid", "--seeds")}
    return {
        "format": FORMAT,
        "workflow": describe_workflow(graph),
        "grid": {axis.names[0]: _values(axis) for axis in axes["--grid"]},
        "seeds": next((_values(axis) for axis in axes["--seeds"]), None),
        "from": None
        if table is None
        else {"columns": [*table.names], "rows": [[*map(portable_value, row)] for row in table.rows]},
        "order": list(grid.names),
        "cells": cells,
        "set": {name: portable_value(grid.base[name]) for name in settings if name in grid.base},
        "parameters": portable_params(grid.base),
        **config.to_json(),
        **execution,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "processor": processor, "cpus": os.cpu_count()},
        "versions": collect_versions(registry, config.accelerate),
    }


def _values(axis: Axis) -> list[Any]:
    return [portable_value(value) for (value,) in axis.rows]


def check_same_workflow(store: Store, graph: Graph) -> None:
    """Raise ``WorkflowError`` if the folder has a sweep of another workflow: neither the file nor the text agrees."""
    if (existing := store.read_description()) is None:
        return
    workflow = existing["workflow"]
    if workflow.get("file") == str(graph.file) or workflow.get("text") == graph.sources.get(str(graph.file)):
        return
    message = f"'{store.folder}' holds a sweep of {workflow.get('file')}: give another folder"
    raise WorkflowError([Problem(Mark("--out", 1, 1), "another-sweep", message)])
