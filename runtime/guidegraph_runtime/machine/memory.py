"""The memory of this machine or container, in bytes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

GROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""The files with the memory limit of control groups, version 2 and 1."""


@cache
def machine_memory() -> int | None:
    """Total memory, which does not change during a run; None if unknown."""
    try:
        totals = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # Windows
        totals = []
    for name in GROUPS:
        with suppress(OSError, ValueError):  # no such group, or its limit is "max"
            totals.append(int(Path(name).read_text(encoding="ascii")))
    return min((total for total in totals if total > 0), default=None)


def available_memory() -> int | None:
    """The memory that this process can still allocate, limited by machine, container and rlimit; None if unknown."""
    if sys.platform != "linux":
        return None
    available = []
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        available.append({words[0]: int(words[1]) for words in lines}["MemAvailable:"] * 1024)
    with suppress(OSError, ValueError):  # control groups, version 2; "max" is not a number
        group = Path("/sys/fs/cgroup")
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(counts.get("inactive_file", 0))
        available.append(max(0, int((group / "memory.max").read_text()) - used))
    with suppress(OSError, ValueError, ImportError):
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            available.append(max(0, limit - pages * resource.getpagesize()))
    return min(available, default=None)
