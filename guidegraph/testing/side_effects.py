"""The side effects of a call, from Python's audit events: files, processes and connections.

Only files that Python itself opens are seen. Libraries in other languages, such as safetensors, go unnoticed.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir": "makes", "os.remove": "removes", "os.rmdir": "removes", "os.rename": "renames"}
OTHERS = {
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.exec": "starts a process",
    "os.posix_spawn": "starts a process",
    "socket.connect": "connects to another machine",
}


@dataclass
class SideEffects:
    """The side effects of a call. reads, writes: paths, in order. descriptions: every other effect, in words."""

    reads: list[Path] = field(default_factory=list)
    writes: list[Path] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)


_watched: dict[int, SideEffects] = {}
_installed = False


@contextmanager
def side_effects() -> Iterator[SideEffects]:
    """Context manager: record the side effects of this thread, except those of imports."""
    global _installed
    if not _installed:  # a hook cannot be removed; it does nothing while not recording
        sys.addaudithook(_hook)
        _installed = True
    thread, done = threading.get_ident(), SideEffects()
    _watched[thread] = done
    try:
        yield done
    finally:
        del _watched[thread]


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    done = _watched.get(threading.get_ident()) if _watched else None
    if done is None:
        return
    if event == "open":
        path, _, flags = arguments
        absolute = _absolute(path) if isinstance(path, (str, bytes, os.PathLike)) else None
        if absolute is None or absolute.suffix in (".pyc", ".py") or any(map(absolute.is_relative_to, _ROOTS)):
            return
        (done.writes if flags & WRITING else done.reads).append(absolute)
    elif event in CHANGES:
        done.writes.append(_absolute(arguments[0]))
    elif event in OTHERS:
        done.descriptions.append(OTHERS[event])


def _absolute(path: Any) -> Path:
    return Path(os.path.abspath(os.fsdecode(path)))


_ROOTS = [  # installed packages, Python itself, and the system's own tables
    *{Path(sysconfig.get_path(name)).absolute() for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    *{Path(sys.prefix).absolute(), Path(sys.base_prefix).absolute()},
    *(Path(root) for root in ("/proc", "/sys", "/dev", "/usr/share", "/etc/ssl")),
]
