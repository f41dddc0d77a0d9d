"""Signals during a run: the first sets the cancel token, so the run ends within a step; the second exits at once.

Programs send SIGTERM only once. If the run has not ended a few seconds later, because a node is in a long call, the
process exits.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guidegraph.graph.cancellation import CancelToken, ignore_interrupt
from guidegraph_runtime.machine.termination import CANCELLED, GRACE, GracePeriod, end_at_once, watch_signals

__all__ = ["CANCELLED", "SIGNALS", "cancel_on_signals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Parent:
    """The parent of a command that ``supervised`` runs in a process of its own, if it has one.

    signals: the socket on which it forwards its signals, one byte each. listening: called with whether they are read.
    """

    signals: socket.socket | None = None
    listening: Callable[[bool], object] = bool


parent = Parent()


@contextmanager
def cancel_on_signals(token: CancelToken, say: Callable[[str], None]) -> Iterator[None]:
    """Context manager: SIGINT and SIGTERM cancel ``token``. Outside the main thread it does nothing."""
    grace = GracePeriod()

    def on_signal(number: int) -> None:
        if token.cancelled:
            end_at_once()
        token.cancel()
        if number == signal.SIGTERM:
            grace.begin()
            say(f"cancelling; ends in at most {GRACE:g} seconds")
        else:
            say("cancelling; once more to end at once")

    try:
        with watch_signals(dict.fromkeys(SIGNALS, ignore_interrupt), on_signal, parent.signals):
            parent.listening(True)
            try:
                yield
            finally:
                parent.listening(False)
    finally:
        grace.stop()
