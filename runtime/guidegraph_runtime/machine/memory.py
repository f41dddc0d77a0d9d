"""The memory of this machine or container, in bytes."""

from __future__ import annotations

import os
import re
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


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
LARGEST = 10**24
"""The largest size that is shown; larger ones are shown as this."""


def parse_size(value: int | str) -> int:
    """Parse a size into a number of bytes, at least 1: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024.

    Raises ``ValueError`` for an invalid size.
    """
    text = str(value).strip()
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]*)", text, re.ASCII)
    unit = UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or isinstance(value, bool):
        raise ValueError(f"'{text}' is not a size: write 6GB, 800MB, 1.5GiB, or a number of bytes")
    count = int(match[1]) if unit == 1 and "." not in match[1] else round(float(match[1]) * unit)
    if count < 1:
        raise ValueError(f"'{text}' is less than one byte")
    return count


def show_size(count: int) -> str:
    """Format a number of bytes, rounded up to three digits so that it is never too small."""
    count = min(count, LARGEST)  # the product of a shape's sizes may be larger than any float
    for name, unit in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= unit:
            scale = unit // (100 if count < 10 * unit else 10 if count < 100 * unit else 1)
            return f"{-(-count // scale) * scale / unit:g} {name}"
    return f"{count} bytes"
