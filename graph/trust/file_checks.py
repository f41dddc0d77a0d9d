"""All checks of whether a file may be opened.

Every file that a workflow names is opened by this module, or checked by it before another library opens it: regular
files of bounded size, folders only where a folder is expected, and for a stranger's workflow only paths inside the
folders that it may read. Checks of single files are imported from the runtime, which needs them without the engine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidegraph_runtime.files.regular_files import (
    RefusedFile,
    check_path,
    kind_of_file,
    open_regular,
    read_regular,
    require_inside,
    require_regular,
    require_regular_files,
    restrict_reads,
)

__all__ = [
    "RefusedFile",
    "check_path",
    "check_paths",
    "list_regular_files",
    "open_regular",
    "read_regular",
    "require_folder",
    "require_inside",
    "require_regular",
    "require_regular_files",
    "restrict_reads",
]


def check_paths(settings: Mapping[str, Any]) -> None:
    """Call ``check_path`` for each path among the values of settings, including paths in lists."""
    for value in settings.values():
        if isinstance(value, Path):
            check_path(value)
        elif isinstance(value, (list, tuple)):
            for element in value:
                if isinstance(element, Path):
                    check_path(element)


def require_folder(path: Path, roots: Sequence[Path] | None = None) -> Path:
    """Return ``path``. Raises ``RefusedFile`` if it is not a folder, ``FileNotFoundError`` if it does not exist."""
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        kind = "a file" if stat.S_ISREG(status.st_mode) else kind_of_file(status.st_mode)
        raise RefusedFile(path, f"expected a folder, found {kind}; name the folder")
    if roots is not None:
        require_inside(path, os.path.realpath(path), roots)
    return path


def list_regular_files(folder: Path, roots: Sequence[Path] | None = None) -> Iterator[Path]:
    """The regular files directly in a folder, sorted by name, including links to regular files.

    Pipes, devices, sockets and dangling links are omitted. roots: omit files outside these folders.
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
