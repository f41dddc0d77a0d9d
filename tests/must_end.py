"""A test that must end fails, rather than hangs, where it does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class DidNotEnd(BaseException):
    """A block took far longer than it ever should. No ``except Exception`` takes it for an error of its own."""


@contextmanager
def must_end(seconds: int = 30) -> Iterator[None]:
    """Raise ``DidNotEnd`` in the main thread where the block takes longer."""

    def stop(*_: object) -> None:
        raise DidNotEnd(f"it did not end within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def stop_waiting() -> None:
    """End the current ``must_end``: its block has failed, and nothing may interrupt the report of that."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, 0)
