"""Parse and format sizes in bytes: ``6GB``, ``800 MB``, ``1.5GiB``, ``4096``."""

from __future__ import annotations

import re

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
