"""Writing files so that no reader, and no crash, ever meets a half-written one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

RUNS = Path("runs")
"""Where the folders of runs are made, in the current folder."""


def run_folder(out: Path | None, name: str) -> Path:
    """The folder for a run's files, made: ``out``, or a new one under `runs` named by the time and `name`.

    Raises ``OSError`` where it cannot be made.
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


@contextmanager
def atomic_path(path: str | os.PathLike[str], durable: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends and is removed when it fails.

    It lies in the same folder (made if missing), so that the rename is atomic, and has the same suffix, since Pillow,
    NumPy and others choose the format by it. What is not `durable` may be lost, or empty, after a power cut.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Long names are cut: the temporary name must fit the file system's limit too.
    temporary = target.with_name(f".{target.stem[:64]}-{secrets.token_hex(6)}.tmp{target.suffix[:32]}")
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes, durable: bool = True) -> None:
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, durable: bool = True) -> None:
    """UTF-8 with the line ends as they are in `text`, on every system."""
    write_bytes(path, text.encode(), durable)


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut may leave the new name on an empty file. "r+b": Windows flushes only what is open to write.
    with path.open("r+b") as file:
        os.fsync(file.fileno())
