"""Limits on the resources of a workflow or a bundle, checked before memory or time is spent.

The defaults are far above ordinary use, and low enough to stop a hostile file with an error. Each can be raised:
``--limit NAME=VALUE`` on the command line, ``limits=Limits(name=value)`` in Python. The limits in force are a context
variable, so readers need no extra argument; a thread gets them with its context.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from operator import mul
from typing import Any

from guidegraph_runtime.machine.memory import parse_size, show_size

UNLIMITED = 2**63 - 1
"""The value of a limit that is switched off."""

_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"(\d{1,20}(?:\.\d{1,15})?)\s*([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """Limits on one workflow or bundle. ``docs/reference/limits.md`` says where each is checked.

    nodes: of a workflow and of its sub-workflows, counted at each use.
    workflow_bytes: of a workflow's text and of its sub-workflows, each counted once.
    text_bytes: of a file that is read at once: JSON, YAML, CSV, a tokenizer.
    file_bytes: of any other file: weights, tensors, pictures, all files of a bundle together.
    pixels: of one picture, height times width.
    elements: of one tensor whose shape is declared by a file or a setting: an array's header, noise, a graph constant.
    trips: iterations of all loops in a run, with inner loops counted each time; in an ONNX graph, of one loop.
    samples: in one call of a network, as far as it is known before the run.
    steps: of a sampler, or of the schedule that a model was trained with.
    seconds: of one run, checked between nodes and at each iteration. None: no limit.
    call_seconds: of one call of a part of a bundle or of another ONNX graph; a longer call is ended.
    memory_bytes: of onnxruntime's values on the CPU, without the weights; the first value that a process uses is kept
    until it ends. None: three quarters of the machine's memory.
    """

    nodes: int = 20_000
    workflow_bytes: int = 4 * 10**6
    text_bytes: int = 256 * 10**6
    file_bytes: int = 64 * 2**30
    pixels: int = 100_000_000
    elements: int = 500_000_000
    trips: int = 10_000_000
    samples: int = 10_000
    steps: int = 100_000
    seconds: float | None = None
    call_seconds: float | None = 3600.0
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in LIMIT_NAMES:
            value = getattr(self, name)
            in_seconds = name in _TIMED
            if value is None and name in _OPTIONAL:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float) if in_seconds else int) or not value > 0:
                kind = "a number of seconds" if in_seconds else "a whole number"
                raise ValueError(f"limit '{name}': expected {kind} above 0, found {value!r}")


LIMIT_NAMES = tuple(field.name for field in fields(Limits))
_TIMED = ("seconds", "call_seconds")
_OPTIONAL = (*_TIMED, "memory_bytes")


class LimitExceeded(ValueError):
    """A quantity exceeds a limit.

    ``limit`` is the name of the limit, ``amount`` the quantity, ``setting`` the setting that determines it, or "".
    """

    def __init__(self, limit: str, amount: float, message: str, setting: str = ""):
        self.limit, self.amount, self.setting = limit, amount, setting
        super().__init__(message)


_DEFAULTS = Limits()
_current: ContextVar[Limits] = ContextVar("guidegraph_limits", default=_DEFAULTS)


def current_limits() -> Limits:
    """The limits in force: the defaults, or the ones set by the innermost ``enforce_limits``."""
    return _current.get()


@contextmanager
def enforce_limits(limits: Limits) -> Iterator[Limits]:
    """Put ``limits`` in force for the block."""
    token = _current.set(limits)
    try:
        yield limits
    finally:
        _current.reset(token)


limited = enforce_limits
"""The earlier name of `enforce_limits`."""


def exceeds_limit(name: str, amount: float) -> bool:
    """Whether ``amount`` exceeds a limit in force."""
    limit = getattr(_current.get(), name)
    return limit is not None and bool(amount > limit)


def limit_message(name: str, amount: float, subject: str, limits: Limits | None = None) -> str | None:
    """A message if ``amount`` exceeds a limit, else None. subject: the start of the message, with the number."""
    limit = getattr(limits or current_limits(), name)
    if limit is None or amount <= limit:
        return None
    raised = "off" if amount > UNLIMITED else f"{amount:.0f}"
    return f"{subject}; the limit is {show_limit(name, limit)}. If that is right, raise it: --limit {name}={raised}"


def check_limit(name: str, amount: float, subject: str, setting: str = "") -> None:
    """Raise ``LimitExceeded`` if ``amount`` exceeds a limit in force. setting: the one that determines the amount."""
    if (message := limit_message(name, amount, subject)) is not None:
        raise LimitExceeded(name, amount, message, setting)


class TripCount:
    """Counts the trips of a run's loops as each loop begins; an inner loop counts once per trip of the outer loops.

    So an excessive loop inside a long training is refused in its first step, not when the sum is reached.
    """

    def __init__(self) -> None:
        self._open_loops: list[int] = []
        self._ended_trips = self._largest = 0

    def begin(self, trips: int) -> None:
        """Begin a loop inside the loops that have not ended. Raises ``LimitExceeded``."""
        self._open_loops.append(trips)
        total = sum(accumulate(self._open_loops, mul))
        self._largest = max(self._largest, total)
        count = self._ended_trips + total
        check_limit("trips", count, f"the loop takes {trips:,} trips, {count:,} with those around and before it")

    @contextmanager
    def scope(self) -> Iterator[None]:
        """End the loops that were begun in the block when the block ends."""
        depth = len(self._open_loops)
        try:
            yield
        finally:
            del self._open_loops[depth:]
            if not depth:
                self._ended_trips, self._largest = self._ended_trips + self._largest, 0

    @contextmanager
    def count_separately(self) -> Iterator[None]:
        """Count the loops of the block once, not per trip of the outer loops."""
        open_loops, largest = self._open_loops, self._largest
        self._open_loops, self._largest = [], 0
        try:
            yield
        finally:
            self._open_loops, self._largest = open_loops, largest


def show_limit(name: str, value: float | None) -> str:
    """Format a limit's value: 4 MB, 10,000,000, 3600 s."""
    if value is None or value == UNLIMITED:
        return "off"
    if name in _TIMED:
        return f"{value:g} s"
    return show_size(int(value)) if name.endswith("_bytes") else f"{int(value):,}"


def parse_limits(settings: Sequence[str], base: Limits | None = None) -> Limits:
    """Parse ``NAME=VALUE`` settings into limits, starting from ``base`` or the defaults.

    A value is a count (``20000``, ``2M``), a size (``6GB``), seconds (``90``, ``5min``, ``2h``), or ``off``. Raises
    ``ValueError`` for an unknown name or an invalid value.
    """
    limits = base or Limits()
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f"'{setting}' is not NAME=VALUE, such as trips=20M")
        if name not in LIMIT_NAMES:
            matches = difflib.get_close_matches(name[:80], LIMIT_NAMES, n=1)
            guess = f"did you mean '{matches[0]}'? " if matches else ""
            raise ValueError(f"there is no limit '{name[:80]}'; {guess}limits: {', '.join(LIMIT_NAMES)}")
        value: Any = _value(name, text.strip())
        limits = replace(limits, **{name: value})
    return limits


def _value(name: str, text: str) -> int | float | None:
    if text.lower() in ("off", "none"):
        return None if name in _OPTIONAL else UNLIMITED
    if name.endswith("_bytes"):
        try:
            return parse_size(text)
        except ValueError as error:
            raise ValueError(f"limit '{name}': {error}, or off") from None
    units = _SECONDS if name in _TIMED else _COUNTS
    match = _NUMBER.fullmatch(text.replace("_", "").replace(",", ""))
    unit = units.get(match[2]) if match else None
    if match is None or unit is None:
        example = "90, 5min or 2h" if name in _TIMED else "20000, 20k or 2M"
        raise ValueError(f"limit '{name}': expected a number such as {example}, or off; found '{text[:80]}'")
    if name in _TIMED:
        value: float = float(match[1]) * unit
    else:
        value = min(int(match[1]) * int(unit) if "." not in match[1] else round(float(match[1]) * unit), UNLIMITED)
    if value <= 0:
        raise ValueError(f"limit '{name}': expected a number above 0; found '{text[:80]}'")
    return value
