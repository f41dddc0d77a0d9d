"""Ctrl-C: the first sets the token, so that the run ends within a step; the second ends the process at once."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guidegraph.graph.events import CancelToken

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CANCELLED = 130


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
    parent.listening(True)
    try:
        yield
    finally:
        parent.listening(False)
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()
        thread.join()
        ours.close()


def _listen(ours: socket.socket, token: CancelToken, say: Callable[[str], None]) -> None:
    counts = {source: 0 for source in (ours, parent.signals) if source is not None}
    while True:
        for source in select.select([*counts], [], [])[0]:
            received = source.recv(16)
            if not received:
                if source is ours:
                    return
                del counts[source]
            for number in received:
                if number not in SIGNALS:
                    continue
                before = max(counts.values())
                counts[source] += 1
                if counts[source] <= before:  # one that went to a group of processes comes by both ways
                    continue
                if token.cancelled:
                    os._exit(CANCELLED)
                token.cancel()
                say("cancelling; once more to end at once")
