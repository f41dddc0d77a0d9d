"""Write files atomically: neither a reader nor a crash ever leaves a half-written file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from guidegraph_runtime.files.temporary_names import remove_stale_once, temporary_path
from guidegraph_runtime.machine.shortages import WriteError, is_disk_error, os_error_number

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


@contextmanager
def write_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ``WriteError`` for `path` if the block fails because of the disk.

    This covers libraries that give the error number only in their text, such as safetensors.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number = os_error_number(error)
        if number is None or not is_disk_error(number):
            raise
        raise WriteError(path, number) from error


@contextmanager
def atomic_path(path: str | os.PathLike[str], durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` when the block ends and removed when it fails.

    It lies in the same folder (created if missing), so that the rename is atomic, and has the same suffix, since
    Pillow, NumPy and others choose the format by it. A file that is not `durable` may be lost or empty after a power
    cut. Raises ``WriteError`` if the file cannot be written. Removes temporary files of killed processes there.
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
    """Write bytes atomically. See `atomic_path`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, durable: bool = True) -> None:
    """Write UTF-8 atomically, with the line ends of `text` on every system."""
    write_bytes(path, text.encode(), durable)


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut may leave an empty file under the new name. "r+b": Windows flushes only writable files.
    with path.open("r+b") as file:
        os.fsync(file.fileno())
