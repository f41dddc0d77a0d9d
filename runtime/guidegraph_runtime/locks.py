"""A lock that one process holds while it writes into a folder. The system lets go of it however the process ends.

The file of the lock is hidden, says who holds it, and is removed at the end. One that a killed process left behind is
taken over by the next.
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

from guidegraph_runtime.ending import before_exit
from guidegraph_runtime.shortages import WriteError
from guidegraph_runtime.temporaries import remove_stale

FOLDER_LOCK = ".guidegraph.lock"
"""The lock of a folder that a run or a sweep writes into, in that folder."""

_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
_HOLDER_LENGTH = 4096
_LOCKED_BYTE = 1 << 30  # far behind the text, which others read while it is locked (Windows locks are mandatory)


class FolderBusy(Exception):
    """Another process holds the lock. ``holder`` says which one."""

    def __init__(self, place: Path, holder: str):
        self.place, self.holder = place, holder
        super().__init__(
            f"{holder} writes to '{place}' just now: wait until it ends, or give another place; "
            "if it hangs, end that process"
        )


@contextmanager
def locked(file: Path, place: Path, what: str) -> Iterator[None]:
    """Hold the lock `file`, and clear what killed processes left half-written in its folder.

    The folder is made, and removed if it is empty at the end. place: what the lock is for, in messages. what: what is
    done, such as "guidegraph run". Where nothing can be written for lack of permission there is nothing to lock.
    Raises ``FolderBusy``, and ``WriteError`` for a full disk.
    """
    new_folders = [folder for folder in file.absolute().parents if not folder.exists()]
    try:
        with _held(file, place, what):
            yield
    finally:
        with suppress(OSError):  # one that is not empty, and so those around it
            for folder in new_folders:
                folder.rmdir()


@contextmanager
def _held(file: Path, place: Path, what: str) -> Iterator[None]:
    descriptor = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(file, place)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise WriteError(file, error.errno or errno.EIO) from error
    if descriptor is None:
        yield
        return
    try:
        with suppress(OSError):  # it only serves the message that another process may show
            os.ftruncate(descriptor, 0)
            os.write(descriptor, _describe_self(what))
        remove_stale(file.parent)
        held = descriptor
        with before_exit(lambda: _release(held, file)):
            yield
    finally:
        _release(descriptor, file)


def _acquire(file: Path, place: Path) -> int:
    """An open descriptor of the locked file."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(descriptor, file, place)
            if _is_same_file(descriptor, file):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it removed it in between: this lock is of a file that has no name any more


def _lock(descriptor: int, file: Path, place: Path) -> None:
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
            raise FolderBusy(place, _read_holder(file)) from None
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
    """Remove the file while it is locked, where the system lets us."""
    with suppress(OSError):
        if sys.platform == "win32":
            os.close(descriptor)
            file.unlink()
        else:
            try:
                file.unlink()
            finally:
                os.close(descriptor)


def _describe_self(what: str) -> bytes:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": platform.node(), "what": what, "since": now}).encode()


def _read_holder(file: Path) -> str:
    """Who holds a lock, as far as its file says it: it may be written by another version, or just now."""
    try:
        with file.open("rb") as opened:
            known = json.loads(opened.read(_HOLDER_LENGTH))
        what, pid, host, since = (str(known[key])[:200] for key in ("what", "pid", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    text = f"{what} (process {pid} on {host}, since {since})"
    return "".join(letter if letter.isprintable() else "?" for letter in text)
