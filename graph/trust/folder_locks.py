"""Locks that allow one writer at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph_runtime.files.locks import FOLDER_LOCK, FolderBusy, hold_lock


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
