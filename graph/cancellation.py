"""Cancellation of a run: the token that cancels it, and Ctrl-C."""

from __future__ import annotations

import signal
import threading

from guidegraph.graph.errors import Cancelled


def ignore_interrupt(number: int, frame: object) -> None:
    """A SIGINT handler that does nothing: another thread, woken by the signal, sets the cancel token."""


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception comes from the user's Ctrl-C and was not raised by a node's code.

    Python raises ``KeyboardInterrupt`` in the main thread only, and not if Ctrl-C sets a token.
    """
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGINT) is not ignore_interrupt


class CancelToken:
    """A token that cancels a run: set by any thread or signal handler, checked between nodes and at every iteration."""

    def __init__(self) -> None:
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def check(self) -> None:
        """Raise ``Cancelled`` if the token is set."""
        if self._cancelled:
            raise Cancelled("the run was cancelled")
