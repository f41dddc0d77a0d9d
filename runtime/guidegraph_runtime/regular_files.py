"""Opening files that somebody else named: regular files only, bounded in size, inside of allowed folders.

A named pipe would wait for a writer, ``/dev/zero`` never ends, and to open some devices changes them. So a path is
looked at before it is opened, opened so that nothing blocks, and looked at again through the descriptor: what was
checked is what is read, whatever happens to the path meanwhile.
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

from guidegraph_runtime.limits import check_limit
from guidegraph_runtime.sizes import show_size

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
def only_within(roots: Sequence[Path] | None, followed: Sequence[Path] = ()) -> Iterator[None]:
    """Inside, files are opened and paths checked in these folders alone, after all links; ``None`` allows all.

    followed: folders in which links may lead anywhere, such as one of a cache of models, whose files are links.
    """
    tokens = _roots.set(None if roots is None else tuple(roots)), _followed.set(tuple(followed))
    try:
        yield
    finally:
        _roots.reset(tokens[0])
        _followed.reset(tokens[1])


class RefusedFile(OSError):
    """A path that may not be opened: not a regular file, or outside of the allowed folders.

    ``strerror`` is the reason with what to do, ``filename`` the path; the text has both.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(errno.EPERM, reason, os.fspath(path))

    def __str__(self) -> str:
        return f"'{self.filename}' is refused: {self.strerror}"


def kind_of_file(mode: int) -> str:
    """What ``st_mode`` says that something is, for a message."""
    return _KINDS.get(stat.S_IFMT(mode), "a special file")


def open_regular(
    path: str | os.PathLike[str], *, limit: str = "file_bytes", roots: Sequence[Path] | None = None
) -> BufferedReader:
    """A regular file, open for reading; links are followed.

    limit: the limit on its bytes, by name. roots: folders of which one must hold the file itself, after all links.
    By default those of ``only_within``. Raises ``RefusedFile`` for a folder, a pipe, a device or a socket and for a
    file outside of ``roots``, ``LimitExceeded`` for one that is too large, and ``OSError`` where there is none or it
    cannot be read.
    """
    roots = _roots.get() if roots is None else roots
    _require_regular(path, os.stat(path))
    descriptor = os.open(path, _FLAGS)
    try:
        status = os.fstat(descriptor)
        _require_regular(path, status)
        if roots is not None:
            require_inside(path, _real_path(descriptor, path, status), roots)
        check_limit(limit, status.st_size, f"'{os.fspath(path)}' has {show_size(status.st_size)}")
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(
    path: str | os.PathLike[str], *, limit: str = "text_bytes", roots: Sequence[Path] | None = None
) -> bytes:
    """All bytes of a regular file. Raises what ``open_regular`` raises, and ``RefusedFile`` for one that grows."""
    with open_regular(path, limit=limit, roots=roots) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) > size:
        raise RefusedFile(path, f"expected {size} bytes, found a file that grows while it is read; copy it first")
    return data


def require_regular(
    path: str | os.PathLike[str], *, limit: str = "file_bytes", roots: Sequence[Path] | None = None
) -> None:
    """The checks of ``open_regular`` for a reader that opens the path by itself."""
    open_regular(path, limit=limit, roots=roots).close()


def check_path(path: Path, roots: Sequence[Path] | None = None) -> None:
    """Check a path before others get it: what is there must be a regular file, of a bounded size, or a folder.

    A path where nothing is passes: it may be one to write. roots: folders of which one must hold the path, after all
    links, whether or not anything is there; by default those of ``only_within``. Raises ``RefusedFile`` and
    ``LimitExceeded``.
    """
    roots = _roots.get() if roots is None else roots
    if roots is not None:
        require_inside(path, os.path.realpath(path), roots)
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return  # whoever opens it says what is wrong with it
    if stat.S_ISREG(status.st_mode):
        check_limit("file_bytes", status.st_size, f"'{path}' has {show_size(status.st_size)}")
    elif not stat.S_ISDIR(status.st_mode):
        found = kind_of_file(status.st_mode)
        raise RefusedFile(path, f"expected a regular file or a folder, found {found}; {_COPY}")


def require_regular_files(folder: Path, roots: Sequence[Path] | None = None) -> None:
    """Check a folder for a reader of another library: what lies in it, not deeper, are regular files and folders.

    An index of weights in several files names files beside it alone. Raises ``RefusedFile`` and ``LimitExceeded``, and
    ``OSError`` for what is no folder.
    """
    with os.scandir(folder) as entries:
        paths = [Path(entry.path) for entry in entries]
    for path in paths:
        check_path(path, roots)
        if ".index." in path.name and path.suffix == ".json":
            _check_index(path, roots)


def _check_index(path: Path, roots: Sequence[Path] | None) -> None:
    try:
        index = json.loads(read_regular(path, roots=roots))
    except ValueError:
        return  # whoever reads it says what is wrong with it
    names = index.get("weight_map") if isinstance(index, dict) else None
    for name in names.values() if isinstance(names, dict) else ():
        if not isinstance(name, str) or name != Path(name).name or "\\" in name:
            raise RefusedFile(path, f"expected an index that names files beside it, found '{name!s:.80}'; get it again")


def require_inside(path: str | os.PathLike[str], real: str, roots: Sequence[Path]) -> None:
    """Raise ``RefusedFile`` where ``real``, the path after all links, lies in none of ``roots``."""
    here = os.path.abspath(path)
    if any(Path(real).is_relative_to(os.path.realpath(root)) for root in roots):
        return
    if not any(Path(here).is_relative_to(os.path.abspath(folder)) for folder in _followed.get()):
        behind = "" if real == here else f" (it is '{real}')"
        allow = f"--allow-read {shlex.quote(real)}"
        raise RefusedFile(path, f"it lies outside of what may be read{behind}; copy it there, or allow it: {allow}")


def _require_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = kind_of_file(status.st_mode)
        do = "name a file in it" if stat.S_ISDIR(status.st_mode) else _COPY
        raise RefusedFile(path, f"expected a regular file, found {found}; {do}")


def _real_path(descriptor: int, path: str | os.PathLike[str], status: os.stat_result) -> str:
    """The path, without links, of the file that a descriptor is open on."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # not Linux
        real = os.path.realpath(path)
        if not os.path.samestat(os.stat(real), status):
            raise RefusedFile(path, "expected a file that stays, found another in its place; try again") from None
        return real
