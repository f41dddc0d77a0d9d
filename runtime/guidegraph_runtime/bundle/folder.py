"""Read the files of a folder once, so that the checked bytes are the bytes that are used.

Files are read, not mapped: a mapping would show changes made after the check.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

from guidegraph_runtime.errors import BundleError, format_value

_PERMISSIONS = "check its permissions"
_LINK_LIKE = 0x400  # FILE_ATTRIBUTE_REPARSE_POINT: links and junctions of Windows
# Flags that a system lacks are 0. Without O_NONBLOCK, opening a pipe would wait for a writer.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def fail(location: str, message: str, do: str = "get the bundle again") -> NoReturn:
    raise BundleError(location, "bad-file", f"{message}; {do}")


def read_file(root: Path, name: str, limit: int, size: int | None = None) -> bytes:
    """Read a regular file in `root`, without following links: at most `limit` bytes and, if given, exactly `size`.

    Raises ``BundleError``, also for a file with several hard links.
    """
    location = str(root / name)
    parts = name.split("/")
    try:
        for i in range(1, len(parts)):
            folder = root.joinpath(*parts[:i])
            status = os.lstat(folder)
            if not stat.S_ISDIR(status.st_mode) or _is_link_like(status):
                fail(str(folder), "expected a folder, found a link or a file")
        before = os.lstat(location)
        _check_regular(location, before)
        descriptor = os.open(location, _FLAGS)
        with open(descriptor, "rb") as file:
            opened = os.fstat(descriptor)
            _check_regular(location, opened)
            if (opened.st_dev, opened.st_ino) != (before.st_dev, before.st_ino):
                fail(location, "expected a file that stays, found that it was replaced while it was opened")
            if size is not None and opened.st_size != size:
                fail(location, f"expected {size} bytes, found {opened.st_size}")
            if opened.st_size > limit:
                fail(location, f"expected at most {limit} bytes, found {opened.st_size}")
            data = file.read(opened.st_size + 1)
        if len(data) != opened.st_size:
            fail(location, f"expected {opened.st_size} bytes, found a file that changed while it was read")
        return data
    except FileNotFoundError:
        fail(location, "expected a file, found nothing")
    except OSError as error:
        fail(location, f"expected a file that can be read, found: {error.strerror}", _PERMISSIONS)
    except MemoryError:
        fail(location, "expected a file that fits in memory, found a larger one", "use a machine with more memory")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_listing(root: Path, files: Collection[str], besides: str) -> None:
    """Refuse anything in `root` that is not one of `files`, `besides`, or one of their folders."""
    folders = {"/".join(name.split("/")[:i]) for name in files for i in range(1, name.count("/") + 1)}
    try:
        for name, entry in _walk_listed(root, "", folders):
            if entry.is_symlink() or _is_link_like(entry.stat(follow_symlinks=False)):
                fail(str(root / name), "expected a file or folder, found a link")
            listed = name in folders if entry.is_dir(follow_symlinks=False) else name in files or name == besides
            if not listed:
                do = "get the bundle again, or remove it if it is yours"
                fail(str(root / name), f"expected only what {besides} lists, found {format_value(name)} too", do)
    except OSError as error:
        fail(str(error.filename or root), f"expected a folder that can be read, found: {error.strerror}", _PERMISSIONS)


def _walk_listed(root: Path, under: str, folders: set[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    # Descend only into listed folders, whose depth is bounded.
    with os.scandir(root / under) as entries:
        for entry in entries:
            name = f"{under}/{entry.name}" if under else entry.name
            yield name, entry
            if name in folders:
                yield from _walk_listed(root, name, folders)


def _check_regular(location: str, status: os.stat_result) -> None:
    if is_link(status):
        fail(location, "expected a file, found a link")
    if not stat.S_ISREG(status.st_mode):
        fail(location, "expected a file, found a folder or a device")
    if status.st_nlink != 1:
        do = "copy the bundle without hard links (cp -r, not cp -rl)"
        fail(location, f"expected a file of one name, found one with {status.st_nlink} hard links", do)


def is_link(status: os.stat_result) -> bool:
    """Whether a result of `os.lstat` is of a link or of a junction of Windows."""
    return stat.S_ISLNK(status.st_mode) or _is_link_like(status)


def _is_link_like(status: os.stat_result) -> bool:
    return bool(getattr(status, "st_file_attributes", 0) & _LINK_LIKE)
