"""Write files atomically: neither a reader nor a crash ever leaves a half-written file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guidegraph_runtime.files.temporary_names import remove_stale_once, temporary_path
from guidegraph_runtime.machine.shortages import WriteError, is_disk_error, os_error_number


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
        if durable:
            _flush_folder(target.parent)


@contextmanager
def atomic_files(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder. Its files are moved to the folder of `path`, one of them, if the block does not fail.

    Each takes the place of a file of its name, in the reverse order of their names. Raises ``WriteError``.
    """
    target = Path(path)
    with write_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_once(target.parent)
        temporary = temporary_path(target)
        temporary.mkdir()
        try:
            yield temporary
            _flush_tree(temporary)
            for made in sorted(temporary.iterdir(), reverse=True):
                os.replace(made, target.parent / made.name)
            _flush_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_folder(path: Path, backup: Path | None = None) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes its place at the end, and is removed if the block fails.

    backup: a name for the earlier folder during the replacement; by default from `path`. Raises ``WriteError``.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, replaced = temporary_path(path), temporary_path(backup or path, "old")
        temporary.mkdir()
        try:
            yield temporary
            _flush_tree(temporary)
            if path.exists():
                os.replace(path, replaced)
            try:
                os.replace(temporary, path)
            except OSError:
                if replaced.exists():
                    os.replace(replaced, path)
                raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _flush_folder(path.parent)  # before the earlier folder goes
        shutil.rmtree(replaced, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes, durable: bool = True) -> None:
    """Write bytes atomically. See `atomic_path`."""
    with atomic_path(path, durable) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str, durable: bool = True) -> None:
    """Write UTF-8 atomically, with the line ends of `text` on every system."""
    write_bytes(path, text.encode(), durable)


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut may leave an empty file under the new name. "r+b": Windows flushes only writable files.
    with path.open("r+b" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def _flush_tree(folder: Path) -> None:
    """Flush all files and folders in a folder, and the folder. A file that this process may not open is left out."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        if path.is_dir():
            _flush_folder(path)
        elif path.is_file():
            with suppress(PermissionError):
                _flush_to_disk(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder where the system can: without it a power cut may undo a renaming."""
    with suppress(OSError):  # Windows opens no folder, and some file systems flush none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
