"""One writer at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph_runtime.locks import FOLDER_LOCK, FolderBusy, locked


@contextmanager
def hold_folder(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder, which is there, and clear what killed processes left half-written in it.

    what: what writes there, such as "guidegraph run". Raises ``WorkflowError`` for ``--out`` where another process
    holds it, and ``OSError`` for a full disk.
    """
    with _one_writer(folder / FOLDER_LOCK, folder, what, "--out"):
        yield


@contextmanager
def hold_output(path: Path, what: str) -> Iterator[None]:
    """Hold the place of a file or folder that is replaced as a whole, by a lock beside it.

    Raises as ``hold_folder`` does, for ``--output``.
    """
    path = path.resolve()
    with _one_writer(path.with_name(f".{path.name[:64]}.lock"), path, what, "--output"):
        yield


@contextmanager
def _one_writer(file: Path, place: Path, what: str, option: str) -> Iterator[None]:
    try:
        with locked(file, place, what):
            yield
    except FolderBusy as busy:
        raise WorkflowError([Problem(Mark(option, 1, 1), "folder-busy", str(busy))]) from None
