"""Writing files so that no reader, and no crash, ever meets a half-written one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from guidegraph_runtime.shortages import WriteError, is_of_disk, os_error_number
from guidegraph_runtime.temporaries import remove_stale_once, temporary_path

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


def unfinished_start(record: Path) -> str:
    """When the run of a `run.json` began that still says "running", though nobody runs it; "" for any other file."""
    try:
        known = json.loads(record.read_bytes())
        return str(known["started"])[:40] if known["status"] == "running" else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@contextmanager
def write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``WriteError`` for `path` where what happens inside fails for a reason that is the disk's.

    That includes errors of libraries that only tell the number in their text, as safetensors does.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = os_error_number(error)
        if number is None or not is_of_disk(number):
            raise
        raise WriteError(path, number) from error


@contextmanager
def atomic_path(path: str | os.PathLike[str], durable: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends and is removed when it fails.

    It lies in the same folder (made if missing), so that the rename is atomic, and has the same suffix, since Pillow,
    NumPy and others choose the format by it. What is not `durable` may be lost, or empty, after a power cut. Raises
    ``WriteError`` where the file cannot be written. Temporary files there of processes that were killed are removed.
    """
    target = Path(path)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_once(target.parent)
        temporary = temporary_path(target)
        try:
            yield temporary
            if durable:
                _flush_to_disk(temporary)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
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
