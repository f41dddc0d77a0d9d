"""Signals in a run: the first sets the token, so that the run ends within a step; the second ends the process at once.

SIGTERM is for programs, which send it once: where the run has not ended a few seconds later, because a node is in a
long call, the process ends.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guidegraph.graph.events import CancelToken, leave_to_token
from guidegraph_runtime.ending import CANCELLED, GRACE, GracePeriod, end_at_once, woken_by_signals

__all__ = ["CANCELLED", "SIGNALS", "cancelled_by_signals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Parent:
    """The parent of a command that runs in a process of its own (``guidegraph.cli.supervised``), if it has one.

    signals: where it passes on the signals that it gets, a byte each. listening: told whether somebody reads them.
    """

    signals: socket.socket | None = None
    listening: Callable[[bool], object] = bool


parent = Parent()


@contextmanager
def cancelled_by_signals(token: CancelToken, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM cancel ``token``; outside of the main thread nothing changes."""
    grace = GracePeriod()

    def heard(number: int) -> None:
        if token.cancelled:
            end_at_once()
        token.cancel()
        if number == signal.SIGTERM:
            grace.begin()
            say(f"cancelling; ends in at most {GRACE:g} seconds")
        else:
            say("cancelling; once more to end at once")

    try:
        with woken_by_signals(dict.fromkeys(SIGNALS, leave_to_token), heard, parent.signals):
            parent.listening(True)
            try:
                yield
            finally:
                parent.listening(False)
    finally:
        grace.stop()
