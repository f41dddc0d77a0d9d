"""A test that must end fails, rather than hangs, where it does not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def must_end(seconds: int = 30) -> Iterator[None]:
    """Raise ``TimeoutError`` in the main thread where the block takes longer: far longer than it ever should."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it did not end within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
