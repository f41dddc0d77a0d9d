"""Listings of the installed plugins, kept on disk: ``--help``, ``nodes`` and ``schema`` import no plugin for it.

A listing is JSON for display: no code and no node is read from it. It is used only while the plugins, the files of
their modules and the folders that they are installed in are as they were when it was made. ``GUIDEGRAPH_LISTINGS``
names the folder, or is ``off``; by default it is ``$XDG_CACHE_HOME/guidegraph/listings``, or the same in ``~/.cache``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.plugins.entry_points import (
    NAMESPACES_GROUP,
    list_entry_points,
    list_namespaces,
    read_disabled_plugins,
    read_distribution,
)
from guidegraph_runtime.files.atomic_write import write_text
from guidegraph_runtime.files.run_folders import user_cache_folder

FOLDER = "GUIDEGRAPH_LISTINGS"
UNUSED_DAYS = 30
"""A listing that was made longer ago is removed when another one is written."""

DIGITS = 16
"""Digits of the key's digest in the name of a listing."""

_started = time.time_ns()


def listings_folder() -> Path | None:
    """The folder of the listings; None if they are turned off."""
    return user_cache_folder("listings", FOLDER)


def read_listing(kind: str, version: str) -> Any:
    """The listing ``kind`` made by this version of guidegraph.

    None if there is none, if a plugin or a file has changed since, if it is damaged, or if it is another user's.
    """
    key = _make_key(kind, version)
    if (path := _listing_path(key)) is None:
        return None
    try:
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            return None
        header, text = read_regular(path).decode().split("\n", 1)
        made = json.loads(header)
        if made["key"] != key or made["crc32"] != zlib.crc32(text.encode()):
            return None
        if any(_stamp(path) != stamp for path, stamp in made["files"].items()):
            return None
        return json.loads(text)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def write_listing(kind: str, version: str, listing: Any, folders: Iterable[Path]) -> None:
    """Keep a listing. ``folders``: those of the plugins' packages; a change of any file in them makes it outdated.

    A listing that cannot be written, or whose files have changed since the process began, is not kept.
    """
    key = _make_key(kind, version)
    if (path := _listing_path(key)) is None:
        return
    entries = list_entry_points()
    files = {str(file): _stamp(file) for file in _find_files(folders, entries)}
    if any(stamp[0] >= _started for stamp in files.values()):
        return
    # The folders with the plugins' distributions change whenever a package is installed or removed.
    installed = {Path(str(sysconfig.get_path(name))) for name in ("purelib", "platlib")}
    installed |= {Path(str(entry.dist.locate_file(""))) for entry in entries if entry.dist is not None}
    files |= {str(folder): _stamp(folder) for folder in sorted(installed)}
    text = json.dumps(listing)
    header = json.dumps({"key": key, "crc32": zlib.crc32(text.encode()), "files": files})
    with suppress(OSError):  # a full disk, or a home folder that is read-only
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, f"{header}\n{text}", durable=False)
        _remove_old(path.parent)


def _make_key(kind: str, version: str) -> list[str]:
    """The conditions of a listing beside files: the plugins in use, this Python, and this version of guidegraph."""
    disabled = read_disabled_plugins()
    declared = list_entry_points(NAMESPACES_GROUP)
    plugins = [
        " ".join((*list_namespaces(entry, declared), entry.value, *read_distribution(entry), str(_locate(entry))))
        for entry in list_entry_points()
        if entry.name not in disabled
    ]
    return [kind, version, sys.version, sys.prefix, str(Path(__file__).parent), *plugins]


def _locate(entry: EntryPoint) -> Path | None:
    """The file of a plugin's top package, found without importing it. Two checkouts may have the same version."""
    try:
        spec = find_spec(entry.value.partition(":")[0].partition(".")[0].strip())
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _listing_path(key: Sequence[str]) -> Path | None:
    folder = listings_folder()
    return folder and folder / f"{key[0]}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:DIGITS]}.json"


def _find_files(folders: Iterable[Path], entries: Iterable[EntryPoint]) -> Iterator[Path]:
    """The files that nodes come from: packages, plugins' modules, and imported modules that no installer placed."""
    yield from (file for file in map(_locate, entries) if file is not None)
    for folder in folders:
        yield from (p for p in (folder, *folder.rglob("*")) if "__pycache__" not in p.parts)
    placed = tuple(str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(placed):
            yield Path(file)


def _stamp(path: str | Path) -> list[int]:
    """The time of the last change in nanoseconds, and the size; zeros for a file that does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return [0, 0]
    return [status.st_mtime_ns, status.st_size]


def _remove_old(folder: Path) -> None:
    oldest = time.time() - UNUSED_DAYS * 86400
    for path in folder.glob(f"*-{'[0-9a-f]' * DIGITS}.json"):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
