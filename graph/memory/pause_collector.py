"""Pauses the cyclic garbage collector during imports, while a workflow is loaded, and while its steps are laid out."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses: list[bool] = []
"""For each pause of any thread that has not ended: whether the collector was enabled when the first one began."""


@contextmanager
def pause_collector() -> Iterator[None]:
    """Context manager: the block runs without the cyclic garbage collector, which all threads share.

    A graph of 10,000 nodes is half a million objects that all stay. The collector would look through all of them, and
    through those of every imported module, again and again, which takes up to half of the time; of the import of torch,
    a fifth.
    """
    with _lock:
        _pauses.append(_pauses[0] if _pauses else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            enabled = _pauses.pop()
            if enabled and not _pauses:
                gc.enable()
