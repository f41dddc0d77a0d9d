"""A node opens only the files named by its `Path` settings, and writes only those marked `Written`.

The side effects of a call, from Python's audit events: files, processes and connections.

Only files that Python itself opens are seen. Libraries in other languages, such as safetensors, go unnoticed.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.graph.paths import find_shipped_folders
from guidegraph.graph.trust.effects import classify_effect, list_companions
from guidegraph_testing.arguments import call_node, make_arguments
from guidegraph_testing.case import NodeCase


def check_files(case: NodeCase) -> None:
    """The engine knows every file that a call reads or writes before the run.

    Effects of the first call alone are ignored: libraries set up their own files when they are imported.
    """
    if _find_violation(case) and (violation := _find_violation(case)):
        raise case.error(*violation)


def _find_violation(case: NodeCase) -> tuple[str, str, str] | None:
    """An undeclared effect of a call, as expected, found and remedy; None if there is none."""
    args = make_arguments(case)
    with side_effects() as effects:
        call_node(case, args)
    declared: list[tuple[str, Path]] = []
    for name, value in (*args.ports.items(), *args.settings.items()):
        port = case.spec.ports[name]
        if (kind := classify_effect(port)) is None:
            continue
        for path in _paths(value):
            declared += [(kind, path), *(("read", beside) for beside in list_companions(port, path))]
    written = [path for kind, path in declared if kind == "write"]
    readable = [*(path for _, path in declared), *find_shipped_folders()]
    if effects.descriptions:
        return "a node that computes", f"it {effects.descriptions[0]}", "do that outside of the node"
    for path in effects.writes:
        if not _is_below(path, written):
            return (
                "no file to be written but those of settings that are Annotated[Path, Written()]",
                f"'{path}' is written",
                "take the path as a setting and mark it, so that `guidegraph plan` can show it",
            )
    for path in effects.reads:
        if not _is_below(path, readable):
            return (
                "no reads except of files named by settings of type Path",
                f"'{path}' is read",
                "take the path as a setting of type Path; Beside(name) says that a file beside it is read too",
            )
    return None


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, (list, tuple)):
        for element in value:
            yield from _paths(element)
    elif isinstance(value, (str, Path)):
        yield Path(value).absolute()


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


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
