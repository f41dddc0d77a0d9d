"""The files that the nodes of a run write outside of its folder, from Python's audit events.

Only files that Python opens are seen, in the threads of the run. Libraries in other languages, such as safetensors, and
other processes go unnoticed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND
MOST = 100
"""How many files are recorded."""

_recorded: ContextVar[dict[str, None] | None] = ContextVar("guidegraph_outside_writes", default=None)


@contextmanager
def record_outside_writes(allowed: Sequence[Path], listed: list[str]) -> Iterator[None]:
    """Append the files that the block writes, and that still exist when it ends, to a list.

    allowed: folders that do not count, besides the user's caches, compiled code and devices.
    """
    _install_hook()
    written: dict[str, None] = {}
    token = _recorded.set(written)
    try:
        yield
    finally:
        _recorded.reset(token)
        caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # there may be no home
        ignored = [*map(os.path.realpath, (*allowed, caches)), "/dev", "/proc"]
        kept = []
        for path in filter(os.path.lexists, written):
            real = Path(os.path.realpath(path))
            is_compiled = any(part == "__pycache__" or part.startswith("torchinductor_") for part in real.parts)
            if not is_compiled and not any(real.is_relative_to(folder) for folder in ignored):
                kept.append(path)
        listed += kept[:MOST]


@cache
def _install_hook() -> None:
    """Install the hook, which cannot be removed; it does nothing outside of runs."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename", "os.link", "os.symlink"):
        return
    written = _recorded.get()
    if written is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if not (any(letter in mode for letter in "wax+") if mode else flags & WRITING):
            return
    else:
        path = arguments[1]
    if isinstance(path, (str, bytes, os.PathLike)) and len(written) < 100 * MOST:
        with suppress(OSError, ValueError):  # the current folder was removed
            written[os.path.abspath(os.fsdecode(path))] = None
