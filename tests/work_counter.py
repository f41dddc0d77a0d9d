"""How much work a call does, counted and not timed: the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def count_calls(function: Callable[[], object]) -> int:
    """How many functions are called while `function` runs, Python's own and built-in ones."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return count


def growth(run: Callable[[int], object], size: int) -> float:
    """By what factor the calls grow when the size doubles: about 2 for linear work, 4 for quadratic work."""
    return count_calls(lambda: run(2 * size)) / count_calls(lambda: run(size))
