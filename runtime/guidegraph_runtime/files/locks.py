"""A lock that a process holds while it writes into a folder. The system releases it however the process ends.

The lock file is hidden, names its holder, and is removed at the end. The next process takes over the lock file of a
killed one.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from guidegraph_runtime.files.atomic_write import remove_stale
from guidegraph_runtime.files.regular_files import open_regular
from guidegraph_runtime.files.run_folders import list_missing_folders, remove_empty_folders
from guidegraph_runtime.machine.shortages import WriteError
from guidegraph_runtime.machine.termination import before_exit

FOLDER_LOCK = ".guidegraph.lock"
"""The name of the lock file in the output folder of a run or a sweep."""

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_HOLDER_LENGTH = 4096
# Far beyond the text, which other processes read while the file is locked: Windows locks are mandatory.
_LOCKED_BYTE = 1 << 30


class FolderBusy(Exception):
    """Another process holds the lock. ``holder`` describes it."""

    def __init__(self, path: Path, holder: str):
        self.path, self.holder = path, holder
        super().__init__(
            f"{holder} writes to '{path}' now: wait until it ends, or choose another folder; "
            "if it hangs, end that process"
        )


@contextmanager
def hold_lock(file: Path, path: Path, activity: str, *, must_write: bool = False) -> Iterator[None]:
    """Hold the lock `file` for the block, and remove temporary files of killed processes in its folder.

    The folder is created, and removed if it is empty at the end. path: the locked path, for messages. activity: for
    messages, such as "guidegraph run". must_write: whether a lack of write permission is an error; otherwise nothing is
    locked then. Raises ``FolderBusy``, and ``WriteError`` for a full disk.
    """
    new_folders = list_missing_folders(file.parent)
    try:
        with _hold_lock(file, path, activity, must_write):
            yield
    finally:
        remove_empty_folders(new_folders)


@contextmanager
def _hold_lock(file: Path, path: Path, activity: str, must_write: bool) -> Iterator[None]:
    descriptor = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(file, path)
    except OSError as error:
        if must_write or error.errno not in _NOT_WRITABLE:
            raise WriteError(file, error.errno or errno.EIO) from error
    if descriptor is None:
        yield
        return
    try:
        with suppress(OSError):  # it only serves the message of another process
            os.ftruncate(descriptor, 0)
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            holder = {"pid": os.getpid(), "host": platform.node(), "what": activity, "since": now}
            os.write(descriptor, json.dumps(holder).encode())
        remove_stale(file.parent)
        locked_descriptor = descriptor
        with before_exit(lambda: _release(locked_descriptor, file)):
            yield
    finally:
        _release(descriptor, file)


def _acquire(file: Path, path: Path) -> int:
    """Open and lock the file; return its descriptor."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(descriptor, file, path)
            if _is_same_file(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it in between, so this lock is on an unlinked file


def _lock(descriptor: int, file: Path, path: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            raise FolderBusy(path, _read_holder(file)) from None
        warnings.warn(
            f"the file system of '{file.parent}' has no locks ({error.strerror}): nothing stops another run that "
            "writes there at the same time",
            stacklevel=2,
        )


def _is_same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _release(descriptor: int, file: Path) -> None:
    """Remove the file while it is locked, if the system allows that."""
    with suppress(OSError):
        if sys.platform == "win32":
            os.close(descriptor)
            file.unlink()
        else:
            try:
                file.unlink()
            finally:
                os.close(descriptor)


def _read_holder(file: Path) -> str:
    """Describe the holder of a lock from its file, which another version may have written, or may be writing now."""
    try:
        with open_regular(file) as opened:
            content = json.loads(opened.read(_HOLDER_LENGTH))
        activity, pid, host, since = (str(content[key])[:200] for key in ("what", "pid", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    text = f"{activity} (process {pid} on {host}, since {since})"
    return "".join(char if char.isprintable() else "?" for char in text)
