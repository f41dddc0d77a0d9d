"""The limits of a server: their defaults, and how they are read from texts."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEVELS = ("debug", "info", "warning", "error")
"""Of the lines of the log, the least first."""
MAX_COUNT = 1_000_000
MAX_PIXELS = 1 << 40
MAX_SECONDS = 1e6
MAX_DIGITS = 15


@dataclass(frozen=True)
class ServeOptions:
    """Limits of a server.

    batch: samples in one step, and of one request. run_memory: bytes of the values of all open runs of a bundle.
    queue: requests that have not ended. steps: iterations of a request. seconds: from a request's arrival to its end.
    body_bytes: of a request; upload_bytes: of one to a bundle that takes pictures or tensors. pixels: of a picture that
    is sent or asked for. bundle_memory: bytes of the files of all open bundles; None for no limit.
    """

    batch: int = 8
    run_memory: int = 1 << 30
    queue: int = 64
    steps: int = 200
    seconds: float = 600.0
    body_bytes: int = 1 << 16
    upload_bytes: int = 16 << 20
    pixels: int = 1 << 24
    bundle_memory: int | None = None


def parse_count(text: str, low: int = 1) -> int:
    """A whole number from ``low`` to a million. Raises ``ValueError``."""
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= MAX_COUNT:
        raise ValueError(f"expected a number from {low} to {MAX_COUNT}, found {text!r:.80}")
    return int(text)


def parse_pixels(text: str) -> int:
    """A number of pixels, such as 16777216, or WIDTHxHEIGHT. Raises ``ValueError``."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(
        side.isascii() and side.isdigit() and len(side) <= MAX_DIGITS for side in sides
    ):
        raise ValueError(f"expected a number of pixels or WIDTHxHEIGHT, found {text!r:.80}")
    if not 1 <= (pixels := math.prod(map(int, sides))) <= MAX_PIXELS:
        raise ValueError(f"expected from 1 to {MAX_PIXELS} pixels, found {text!r:.80}")
    return pixels


def parse_seconds(text: str) -> float:
    """Seconds above 0. Raises ``ValueError``."""
    return parse_amount(text, "seconds above 0", MAX_SECONDS)


def parse_amount(text: str, expected: str, high: float, zero: bool = False) -> float:
    """A number above 0, or from 0 where ``zero``, up to ``high``. Raises ``ValueError``."""
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not (0 < amount <= high or (zero and amount == 0)):
        raise ValueError(f"expected {expected}, found {text!r:.80}")
    return amount
