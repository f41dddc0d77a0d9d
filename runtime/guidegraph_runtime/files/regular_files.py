"""Open untrusted paths: only regular files of bounded size inside allowed folders.

A named pipe would wait for a writer, ``/dev/zero`` never ends, and opening some devices changes them. So a path is
checked before it is opened, opened without blocking, and checked again through the descriptor. The checked file is the
one that is read, whatever happens to the path meanwhile.

Read JSON that comes from elsewhere: a record of a run, a description of a sweep, the text in a picture.

The file must be a regular one, and its size and the number of its values are limited before it is parsed: 57 MB of
``[]`` would take 1.3 GB. Bundles have a stricter reader (``bundle/strict_json.py``).
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from io import BufferedReader
from pathlib import Path
from typing import Any

from guidegraph_runtime.limits import check_limit, exceeds_limit
from guidegraph_runtime.machine.memory import show_size

# Flags that a system lacks are 0.
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_COPY = "copy what it gives into a file, and name that"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


_roots: ContextVar[tuple[Path, ...] | None] = ContextVar("guidegraph_roots", default=None)
_followed: ContextVar[tuple[Path, ...]] = ContextVar("guidegraph_followed", default=())


@contextmanager
def restrict_reads(roots: Sequence[Path] | None, followed: Sequence[Path] = ()) -> Iterator[None]:
    """Restrict files and paths in the block to these folders, after resolving links; ``None`` allows all.

    followed: folders whose links may lead anywhere, such as a model cache, whose files are links.
    """
    tokens = _roots.set(None if roots is None else tuple(roots)), _followed.set(tuple(followed))
    try:
        yield
    finally:
        _roots.reset(tokens[0])
        _followed.reset(tokens[1])


class RefusedFile(OSError):
    """A path that may not be opened: not a regular file, or outside the allowed folders.

    ``strerror`` is the reason with a remedy, ``filename`` the path; the text has both.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(errno.EPERM, reason, os.fspath(path))

    def __str__(self) -> str:
        return f"'{self.filename}' is refused: {self.strerror}"


def kind_of_file(mode: int) -> str:
    """The kind of file that ``st_mode`` describes, for a message."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def open_regular(path: str | os.PathLike[str], *, limit: str = "file_bytes") -> BufferedReader:
    """Open a regular file for reading; links are followed.

    limit: the name of the limit on its size. Raises ``RefusedFile`` for a folder, a pipe, a device or a socket and for
    a file that after resolving links is outside the folders of ``restrict_reads``, ``LimitExceeded`` for a file that is
    too large, and ``OSError`` if it is missing or unreadable.
    """
    _require_regular(path, os.stat(path))
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
        if (roots := _roots.get()) is not None:
            require_inside(path, _real_path(descriptor, path, status), roots)
        if exceeds_limit(limit, status.st_size):
            check_limit(limit, status.st_size, f"'{os.fspath(path)}' has {show_size(status.st_size)}")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, limit: str = "text_bytes") -> bytes:
    """Read a regular file. Raises the errors of ``open_regular``, and ``RefusedFile`` for a file that grows."""
    with open_regular(path, limit=limit) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) > size:
        raise RefusedFile(path, f"expected {size} bytes, found a file that grows while it is read; copy it first")
    return data


def require_regular(path: str | os.PathLike[str]) -> None:
    """Make the checks of ``open_regular`` for a reader that opens the path itself."""
    open_regular(path).close()


def check_path(path: Path) -> None:
    """Check that a path is a regular file of bounded size, or a folder, before passing it on.

    A path that does not exist passes: it may be written later. The path after resolving links must be inside the
    folders of ``restrict_reads``, also if it does not exist. Raises ``RefusedFile`` and ``LimitExceeded``.
    """
    if (roots := _roots.get()) is not None:
        require_inside(path, os.path.realpath(path), roots)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return  # opening it will raise the error
    if stat.S_ISREG(status.st_mode):
        if exceeds_limit("file_bytes", status.st_size):
            check_limit("file_bytes", status.st_size, f"'{path}' has {show_size(status.st_size)}")
    elif not stat.S_ISDIR(status.st_mode):
        kind = kind_of_file(status.st_mode)
        raise RefusedFile(path, f"expected a regular file or a folder, found {kind}; {_COPY}")


def require_regular_files(folder: Path) -> None:
    """Check a folder for a reader of another library: its entries must be regular files and folders.

    An index of sharded weights may only name files beside it. Subfolders are not searched. Raises ``RefusedFile``,
    ``LimitExceeded``, and ``OSError`` if it is not a folder.
    """
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries]
    for path in paths:
        check_path(path)
        if ".index." not in path.name or path.suffix != ".json":
            continue
        try:
            index = json.loads(read_regular(path))
        except ValueError:
            continue  # reading it will raise the error
        names = index.get("weight_map") if isinstance(index, dict) else None
        for name in names.values() if isinstance(names, dict) else ():
            if not isinstance(name, str) or name != Path(name).name or "\\" in name:
                message = f"expected an index that names files beside it, found '{name!s:.80}'; get it again"
                raise RefusedFile(path, message)


def require_inside(path: str | os.PathLike[str], real: str, roots: Sequence[Path]) -> None:
    """Raise ``RefusedFile`` if ``real``, the path after resolving links, is outside all ``roots``."""
    absolute = os.path.abspath(path)
    if any(Path(real).is_relative_to(os.path.realpath(root)) for root in roots):
        return
    if not any(Path(absolute).is_relative_to(os.path.abspath(folder)) for folder in _followed.get()):
        resolved = "" if real == absolute else f" (it is '{real}')"
        allow = f"--allow-read {shlex.quote(real)}"
        raise RefusedFile(path, f"it lies outside of what may be read{resolved}; copy it there, or allow it: {allow}")


def _require_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = kind_of_file(status.st_mode)
        do = "name a file in it" if stat.S_ISDIR(status.st_mode) else _COPY
        raise RefusedFile(path, f"expected a regular file, found {kind}; {do}")


def _real_path(descriptor: int, path: str | os.PathLike[str], status: os.stat_result) -> str:
    """The resolved path of the file of an open descriptor."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # not Linux
        real = os.path.realpath(path)
        if not os.path.samestat(os.stat(real), status):
            raise RefusedFile(path, "expected a file that stays, found that it was replaced; try again") from None
        return real


MAX_BYTES = 64 << 20
MAX_VALUES = 1_000_000
"""Values take up to about 100 bytes each, with their place in a list or an object."""


def parse_json(text: bytes | str, *, max_values: int = MAX_VALUES) -> Any:
    """Parse a JSON text. Raises ``ValueError`` if it is not JSON, too deep, or larger than the limits.

    max_values: how many values it may have, estimated from its commas and brackets, those in texts included.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"expected JSON of at most {show_size(MAX_BYTES)}, found {show_size(len(text))}")
    if isinstance(text, bytes):
        count = text.count(b",") + text.count(b"[") + text.count(b"{")
    else:
        count = text.count(",") + text.count("[") + text.count("{")
    if count > max_values:
        raise ValueError(f"expected JSON with at most {max_values:,} values, found about {count:,}")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("expected JSON, found lists or objects in each other that are too deep") from None


def read_json(path: str | os.PathLike[str], *, max_values: int = MAX_VALUES) -> Any:
    """Read a JSON file, with a byte order mark or without. Raises as ``parse_json`` and ``open_regular``."""
    with open_regular(path, limit="text_bytes") as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            raise ValueError(f"expected JSON of at most {show_size(MAX_BYTES)}, found {show_size(size)}")
        data = file.read(MAX_BYTES + 1)
    return parse_json(data.removeprefix(b"\xef\xbb\xbf"), max_values=max_values)
