"""The runs in a folder, newest first, with their parameters and pictures."""

from __future__ import annotations

import difflib
import json
import math
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from guidegraph.graph.node import Registry
from guidegraph.graph.stopping.state_file import BAD_STATE, state_error
from guidegraph.graph.trust.file_checks import RefusedFile, open_regular
from guidegraph.runs.shown_files import ShownFile, find_html_format, show_file
from guidegraph.runs.stopped_run import StoppedRun
from guidegraph_runtime.run_json import RECORD, read_record

PAGE_SIZE = 200
MAX_PICTURES = 8
MAX_BYTES = 64 << 20
EXACT = 2**53
"""JavaScript tells whole numbers below this from each other."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def list_runs(registry: Registry, runs: Path, before: str = "") -> dict[str, Any]:
    """The newest runs below a folder, and how many folders of runs there are: ``{"runs": …, "total": …, "next": …}``.

    before: list the runs older than the one in this folder. The answer's ``next`` is the ``before`` of the next page;
    "" after the last one. A folder without a readable record is left out. Numbers that JSON lacks are texts among the
    parameters: ``NaN``, ``Infinity`` and ``-Infinity``. ``shown`` of a run: the files that `show_output` shows.
    """
    with os.scandir(runs) if runs.is_dir() else nullcontext(()) as entries:
        names = sorted((entry.name for entry in entries if entry.is_dir()), reverse=True)
    older = [name for name in names if not before or name < before]
    rows = []
    for name in older[:PAGE_SIZE]:
        if (record := read_record(runs / name / RECORD)) is not None:
            with suppress(ValueError, TypeError, RecursionError):  # of a record that another program wrote
                shown = [
                    file
                    for output in map(as_dict, as_dict(record.get("outputs")).values())
                    for file in map(str, as_list(output.get("files")))
                    if find_html_format(registry, str(output.get("type", "")), file)
                ]
                rows.append({**describe_run(runs / name, record), "shown": shown[:MAX_PICTURES]})
    following = older[PAGE_SIZE - 1] if len(older) > PAGE_SIZE else ""
    return {"runs": rows, "total": len(names), "next": following}


def describe_run(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A run's record for the page. folder: of the run."""
    workflow, outputs = as_dict(record.get("workflow")), as_dict(record.get("outputs"))
    names = [str(name) for output in outputs.values() for name in as_list(as_dict(output).get("files"))]

    def read_int(digits: str) -> int | str:
        return int(digits) if len(digits) < 20 and abs(int(digits)) < EXACT else digits

    # Numbers that JavaScript cannot hold, such as NaN and 2**53 + 1, become texts.
    params = json.loads(json.dumps(as_dict(record.get("parameters"))), parse_constant=str, parse_int=read_int)
    return {
        "folder": folder.name,
        "name": str(workflow.get("name", "")),
        "file": str(workflow.get("file", "")),
        "status": str(record.get("status", "")),
        "error": str(record.get("error") or ""),
        "started": str(record.get("started", "")),
        "seconds": _read_seconds(record.get("seconds")),
        "params": params,
        "stopped": bool(as_dict(record.get("stopped"))),
        "pictures": [name for name in names if name.endswith(".png")][:MAX_PICTURES],
    }


def _read_seconds(value: Any) -> float | None:
    """A finite number of seconds in a record; ``None`` for any other value."""
    try:
        seconds = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:  # of a whole number with hundreds of digits
        return None
    return seconds if math.isfinite(seconds) else None


def read_stopped_run(runs: Path, folder: str) -> StoppedRun:
    """The stopped run in a folder. Raises ``WorkflowError`` if there is none, or its file is damaged."""
    record = _read_record(runs, folder)
    file = str(as_dict(as_dict(record).get("stopped")).get("file", ""))
    if not file or Path(file).name != file or "\0" in file:
        raise state_error(Path("runs", folder[:100]), BAD_STATE, "this folder has no run that was stopped")
    return StoppedRun.load(runs / folder / file)


def compare_texts(runs: Path, first: str, second: str) -> list[str]:
    """The lines in which the workflows of two runs differ, after ``-`` and ``+``; empty if a run has no record."""
    before, after = _read_workflow(runs, first), _read_workflow(runs, second)
    if before is None or after is None:
        return []
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for i, line in enumerate(lines) if i > 1 and not line.startswith("@@ ")]  # without the two titles


def _read_workflow(runs: Path, folder: str) -> str | None:
    """The text of a run's workflow; ``None`` for anything but the name of a run's folder."""
    text = as_dict((_read_record(runs, folder) or {}).get("workflow")).get("text")
    return text if isinstance(text, str) else None


def _read_record(runs: Path, folder: str) -> dict[str, Any] | None:
    """The record of a run; ``None`` for anything but the name of a run's folder."""
    return read_record(runs / folder / RECORD) if is_folder_name(folder) else None


def is_folder_name(text: str) -> bool:
    """Whether a text is the name of a folder, and no path."""
    return text not in ("", ".", "..") and Path(text).name == text and "\0" not in text


def as_dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def show_output(registry: Registry, runs: Path, folder: str, file: str) -> ShownFile | None:
    """The markup of an output's file in a run's folder; None for another file, and without a format that shows it."""
    outputs = as_dict((_read_record(runs, folder) or {}).get("outputs"))
    for output in map(as_dict, outputs.values()):
        if file in as_list(output.get("files")):
            path = runs / folder / file
            format = find_html_format(registry, str(output.get("type", "")), file)
            is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(runs / folder))
            return show_file(format, path) if format and is_inside and path.is_file() else None
    return None


def read_picture(runs: Path, folder: str, file: str) -> bytes | None:
    """The bytes of a PNG in a run's folder; ``None`` for a file that is none, or lies elsewhere."""
    name = Path(folder, file)
    if name.is_absolute() or ".." in name.parts or "\0" in file + folder or name.suffix.lower() != ".png":
        return None
    path = runs / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(runs)):
        return None
    try:
        with open_regular(path) as opened:
            content = opened.read(MAX_BYTES + 1)
    except (OSError, RefusedFile):
        return None
    return content if content.startswith(SIGNATURE) and len(content) <= MAX_BYTES else None
