"""Write files atomically: neither a reader nor a crash ever leaves a half-written file.

Name temporary files and folders by their process, so that files of killed processes can be removed.

A name is `.STEM-PID-MACHINE-TOKEN.tmp`, followed by the suffix of the final file. A replaced old version has `.old`
instead of `.tmp`.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

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


STALE_SECONDS = 86_400.0
"""Age in seconds (a day) at which a temporary file is stale if its process cannot be looked up."""

Kind: TypeAlias = Literal["tmp", "old"]

_NAME = re.compile(
    r"\.(?P<stem>.*)-(?P<pid>\d{1,10})-(?P<machine>[0-9a-f]{8})-[0-9a-f]{12}\.(?P<kind>tmp|old)(?:\.\w{1,31})?",
    re.DOTALL,
)
_cleared: set[Path] = set()
_lock = threading.Lock()


def temporary_path(path: Path, kind: Kind = "tmp") -> Path:
    """A new hidden name beside `path`, unique to this process. A temporary file has the suffix of `path`."""
    # Long names are truncated to fit the file system's limit.
    suffix = path.suffix[:32] if kind == "tmp" else ""
    return path.with_name(f".{path.stem[:32]}-{os.getpid()}-{machine_id()}-{secrets.token_hex(6)}.{kind}{suffix}")


@functools.cache
def machine_id() -> str:
    """Eight hexadecimal digits for the scope of process ids: host, boot and container."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_alive(pid: int) -> bool | None:
    """Whether a process of this machine runs; None if unknown."""
    if sys.platform == "win32":
        return None  # os.kill would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return None
    return True


def stale_paths(folder: Path, kind: Kind = "tmp", stem: str | None = None) -> Iterator[Path]:
    """Yield the files and folders of a kind in a folder whose process has ended. stem: only names with this stem.

    Those of another machine, or of a process that cannot be looked up, are stale when they are older than a day.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None or match["kind"] != kind or stem not in (None, match["stem"]):
                continue
            alive = is_alive(int(match["pid"])) if match["machine"] == machine_id() else None
            if alive is None:
                with suppress(OSError):  # it may be gone by now
                    alive = time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE_SECONDS
            if alive is False:
                yield folder / entry.name


def remove_stale(folder: Path) -> None:
    """Remove temporary files of killed processes in a folder, as far as possible."""
    for path in list(stale_paths(folder)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def remove_stale_once(folder: Path) -> None:
    """Call ``remove_stale`` once per folder and process."""
    absolute = folder.absolute()
    with _lock:
        if absolute in _cleared:
            return
        _cleared.add(absolute)
    remove_stale(absolute)
