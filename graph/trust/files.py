"""The one place that says whether a file may be opened.

Every file that a workflow names is opened through here, or checked here before a reader of another library opens it:
regular files of a bounded size, folders where a folder is meant, and, for a stranger's workflow, inside of the folders
that it may read. The checks of single files are the runtime's, which needs them without the engine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidegraph_runtime.regular_files import (
    RefusedFile,
    check_path,
    kind_of_file,
    open_regular,
    read_regular,
    require_inside,
    require_regular,
    require_regular_files,
)

__all__ = [
    "RefusedFile",
    "check_path",
    "check_paths",
    "open_regular",
    "read_regular",
    "regular_files",
    "require_folder",
    "require_inside",
    "require_regular",
    "require_regular_files",
]


def check_paths(settings: Mapping[str, Any], roots: Sequence[Path] | None = None) -> None:
    """``check_path`` for each path among the values of settings, those in lists included."""
    for value in settings.values():
        if isinstance(value, Path):
            check_path(value, roots)
        elif isinstance(value, (list, tuple)):
            for part in value:
                if isinstance(part, Path):
                    check_path(part, roots)


def require_folder(path: Path, roots: Sequence[Path] | None = None) -> Path:
    """A folder's path. Raises ``RefusedFile`` for anything else, and ``FileNotFoundError`` where nothing is."""
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        found = "a file" if stat.S_ISREG(status.st_mode) else kind_of_file(status.st_mode)
        raise RefusedFile(path, f"expected a folder, found {found}; name the folder")
    if roots is not None:
        require_inside(path, os.path.realpath(path), roots)
    return path


def regular_files(folder: Path, roots: Sequence[Path] | None = None) -> Iterator[Path]:
    """The regular files in a folder, not deeper, sorted by name; links to such files count.

    Pipes, devices, sockets and links to nowhere are left out. roots: leave out files that lie in none of them.
    """
    with os.scandir(require_folder(folder, roots)) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    for name in names:
        path = folder / name
        if roots is None or _lies_inside(path, roots):
            yield path


def _lies_inside(path: Path, roots: Sequence[Path]) -> bool:
    try:
        require_inside(path, os.path.realpath(path), roots)
    except RefusedFile:
        return False
    return True
