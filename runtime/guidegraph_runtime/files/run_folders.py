"""The folder for a run's files, and the removal of folders in which none was written."""

from __future__ import annotations

import os
from collections.abc import Iterable
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


def list_missing_folders(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist, innermost first."""
    absolute = folder.absolute()
    return [path for path in (absolute, *absolute.parents) if not path.exists()]


def remove_empty_folders(folders: Iterable[Path]) -> None:
    """Remove folders, listed innermost first, up to the first that is not empty or cannot be removed."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def user_cache_folder(name: str, variable: str) -> Path | None:
    """The folder of a cache: that in an environment variable, or else `guidegraph/NAME` in `$XDG_CACHE_HOME`.

    That is `~/.cache` if it is not set. None if the variable is `off`, or if there is no home folder.
    """
    chosen = os.environ.get(variable, "")
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home folder
        return None
    return caches / "guidegraph" / name
