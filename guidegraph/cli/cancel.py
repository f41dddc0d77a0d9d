"""Ctrl-C: the first sets the token, so that the run ends within a step; the second ends the process at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from guidegraph.graph.events import CancelToken

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CANCELLED = 130
AGAIN = 0.2
"""Seconds within which a second signal is the first: one to a group of processes reaches the command by two ways."""


@contextmanager
def cancelled_by_signals(token: CancelToken, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM cancel ``token``; outside of the main thread nothing changes.

    A thread is woken by the signals, since Python runs a handler only between two of the main thread's
    instructions: never during a long call into torch.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(ours, token, say), name="guidegraph-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        thread.join()
        ours.close()


def _listen(ours: socket.socket, token: CancelToken, say: Callable[[str], None]) -> None:
    first = 0.0
    while received := ours.recv(16):
        for number in received:
            if number not in SIGNALS:
                continue
            if token.cancelled:
                if time.monotonic() - first < AGAIN:
                    continue
                os._exit(CANCELLED)
            first = time.monotonic()
            token.cancel()
            say("cancelling; once more to end at once")
