"""End a process on SIGTERM: cleanly within a few seconds, and immediately after that.

Python runs a signal handler only between two instructions of the main thread, never during a long call into torch or
onnxruntime. So the signals also wake another thread, which ends the process if the main thread does not.
Files are written under a temporary name and renamed, so none is left half-written whenever the process ends.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

CANCELLED = 130
"""The exit code of a process that was cancelled."""

GRACE = 5.0
"""Seconds for a process to end by itself after the first SIGTERM: less than the ten of ``docker stop``."""


@contextmanager
def watch_signals(
    handlers: Mapping[int, Any], on_signal: Callable[[int], None], forwarded: socket.socket | None = None
) -> Iterator[None]:
    """Install signal handlers for the block, and call ``on_signal`` on another thread for each of their signals.

    forwarded: a socket on which a parent process forwards its signals, one byte each. A signal sent to the process
    group arrives both ways and counts once.

    Does nothing outside the main thread, since only that receives signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        counts = {source: 0 for source in (ours, forwarded) if source is not None}
        while True:
            for source in select.select([*counts], [], [])[0]:
                received = source.recv(16)
                if not received:
                    if source is ours:
                        return
                    del counts[source]
                for number in received:
                    if number in handlers:
                        highest = max(counts.values())
                        counts[source] += 1
                        if counts[source] > highest:
                            on_signal(number)

    thread = threading.Thread(target=listen, name="guidegraph-signals", daemon=True)
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


_last_calls: list[Callable[[], object]] = []


@contextmanager
def before_exit(call: Callable[[], object]) -> Iterator[None]:
    """Call ``call``, on another thread, if ``end_at_once`` ends the process during the block."""
    _last_calls.append(call)
    try:
        yield
    finally:
        _last_calls.remove(call)


def end_at_once() -> NoReturn:
    """Make the calls of ``before_exit``, the last one first, and end the process whatever its other threads do."""
    for call in reversed([*_last_calls]):
        with suppress(Exception):  # the process ends in any case
            call()
    os._exit(CANCELLED)


class GracePeriod:
    """Ends the process some seconds after ``begin``, unless ``stop`` is called first."""

    def __init__(self, seconds: float = GRACE):
        self._seconds = seconds
        self._stopped = threading.Event()
        self._begun = False

    def begin(self) -> None:
        """Start the countdown; later calls do nothing."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._wait, name="guidegraph-grace", daemon=True).start()

    def stop(self) -> None:
        """Cancel the countdown: the process is about to end by itself."""
        self._stopped.set()

    def _wait(self) -> None:
        if not self._stopped.wait(self._seconds):
            end_at_once()


@contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Turn a SIGTERM in the block into a ``KeyboardInterrupt``, and end the process after the grace period."""
    grace = GracePeriod()
    try:
        with watch_signals({signal.SIGTERM: signal.default_int_handler}, lambda _: grace.begin()):
            yield
    finally:
        grace.stop()


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes any free one. Raises ``OSError``.

    Its connections have ``TCP_NODELAY``. asyncio sets it only on a socket that names its protocol, which an accepted
    one does not. Without it the second and later answers of a connection wait 40 ms for an acknowledgement.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.create_server((host, port), family=family, backlog=128)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
