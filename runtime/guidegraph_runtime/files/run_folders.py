"""Folders of runs: create one for a run's files, and recognise that of a killed run."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

RUNS = Path("runs")
"""The parent of the runs' folders, in the current folder."""


def make_run_folder(out: Path | None, name: str) -> Path:
    """Create the folder for a run's files: ``out``, or a new folder under `runs` named by the time and `name`.

    Raises ``OSError`` if that fails.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        return out
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name.replace(os.sep, '-')}"
    for i in range(1, 1000):
        folder = RUNS / (stem if i == 1 else f"{stem}-{i}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise FileExistsError(f"{RUNS / stem} and 999 more exist already")


def find_killed_run(record: Path) -> str:
    """The start time in the `run.json` of a killed run, whose status is still "running"; "" for other files."""
    try:
        content = json.loads(record.read_bytes())
        return str(content["started"])[:40] if content["status"] == "running" else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
