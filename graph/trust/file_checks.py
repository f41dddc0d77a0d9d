"""All checks of whether a file may be opened.

Every file that a workflow names is opened by this module, or checked by it before another library opens it: regular
files of bounded size, folders only where a folder is expected, and for a stranger's workflow only paths inside the
folders that it may read. Checks of single files are imported from the runtime, which needs them without the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph_runtime.files.locks import FOLDER_LOCK, FolderBusy, hold_lock
from guidegraph_runtime.files.regular_files import (
    RefusedFile,
    check_path,
    open_regular,
    read_regular,
    require_regular,
    require_regular_files,
    restrict_reads,
)

__all__ = [
    "RefusedFile",
    "check_path",
    "check_paths",
    "may_hold_path",
    "open_regular",
    "read_regular",
    "require_regular",
    "require_regular_files",
    "restrict_reads",
]


def may_hold_path(value: Any) -> bool:
    """Whether ``check_paths`` looks into a value: a path, a list or a tuple."""
    return isinstance(value, (Path, list, tuple))


def check_paths(settings: Mapping[str, Any]) -> None:
    """Call ``check_path`` for each path among the values of settings, including paths in lists."""
    for value in settings.values():
        if isinstance(value, Path):
            check_path(value)
        elif isinstance(value, (list, tuple)):
            for element in value:
                if isinstance(element, Path):
                    check_path(element)


@contextmanager
def lock_folder(folder: Path, writer: str) -> Iterator[None]:
    """Lock an existing folder, and remove incomplete files left by killed processes.

    writer: its name, such as "guidegraph run". Raises ``WorkflowError`` for ``--out`` if another process
    holds the lock, and ``OSError`` if the disk is full.
    """
    with _lock(folder / FOLDER_LOCK, folder, writer, "--out"):
        yield


@contextmanager
def lock_output(path: Path, writer: str) -> Iterator[None]:
    """Lock the path of a file or folder that is replaced as a whole, with a lock file in its folder.

    Raises the same errors as ``lock_folder``, for ``--output``.
    """
    path = path.resolve()
    with _lock(path.with_name(f".{path.name[:64]}.lock"), path, writer, "--output"):
        yield


@contextmanager
def _lock(file: Path, target: Path, writer: str, option: str) -> Iterator[None]:
    try:
        with hold_lock(file, target, writer):
            yield
    except FolderBusy as busy:
        raise WorkflowError([Problem(Mark(option, 1, 1), "folder-busy", str(busy))]) from None
