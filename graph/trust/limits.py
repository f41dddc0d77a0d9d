"""Limits of the engine: the runtime's, and checks of a workflow before it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import OutOfTime, Problem
from guidegraph.graph.ir import Loop, Op, find_loops
from guidegraph.graph.sources import find_value
from guidegraph.graph.types import is_tensor
from guidegraph_runtime.limits import (
    LIMIT_NAMES,
    UNLIMITED,
    LimitExceeded,
    Limits,
    TripCount,
    check_limit,
    current_limits,
    enforce_limits,
    limit_message,
    parse_limits,
    show_limit,
)

__all__ = [
    "LIMIT_NAMES",
    "UNLIMITED",
    "DeadlineToken",
    "LimitExceeded",
    "Limits",
    "TripCount",
    "check_limit",
    "current_limits",
    "enforce_limits",
    "find_trip_problems",
    "limit_message",
    "parse_limits",
    "show_limit",
]


class DeadlineToken(CancelToken):
    """A cancel token that also cancels the run a number of seconds after the token's creation."""

    def __init__(self, inner: CancelToken, seconds: float):
        super().__init__()
        self._inner = inner
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def cancel(self) -> None:
        self._inner.cancel()

    @property
    def cancelled(self) -> bool:
        return self._inner.cancelled or time.monotonic() >= self._end

    def check(self) -> None:
        """Raise ``OutOfTime`` once the seconds have passed, ``Cancelled`` once the token is set."""
        if time.monotonic() >= self._end:
            limit = show_limit("seconds", self._seconds)
            raise OutOfTime(
                f"the run took longer than the limit of {limit}; outputs that were complete are kept. If it may take "
                "longer, raise the limit: --limit seconds=VALUE"
            )
        self._inner.check()


def find_trip_problems(ops: Mapping[str, Op], values: Mapping[str, Any]) -> list[Problem]:
    """A problem for each outermost loop known to exceed the trip limit, inner trips included.

    values: of parameters, as far as known. A trip count computed by a node is checked when the loop begins.
    """
    problems = []
    for loop in find_loops(ops.values()).values():
        trips = _count_trips(loop, values)
        if message := limit_message("trips", trips, f"the loop takes {trips:,} trips, with the loops inside of it"):
            problems.append(Problem(loop.mark, "over-limit", message, f"nodes.{loop.key}"))
    return problems


def _count_trips(loop: Loop, values: Mapping[str, Any]) -> int:
    """The total trips of a loop and the loops in it; an unknown count is taken as 1."""
    value = find_value(loop.over if loop.steps is None else loop.steps, values)
    count = 1
    if isinstance(value, int) and not isinstance(value, bool):
        count = max(value, 0)
    elif is_tensor(value) and value.ndim:
        count = int(value.shape[0])
    elif isinstance(value, (list, tuple)):
        count = len(value)
    inner = sum(_count_trips(inner, values) for inner in find_loops(loop.body.values()).values())
    return count * (1 + inner)
