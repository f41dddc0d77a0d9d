"""Name temporary files and folders by their process, so that files of killed processes can be removed.

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
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

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
