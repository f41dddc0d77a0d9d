"""Pauses the cyclic garbage collector while a workflow is loaded, and while its steps are laid out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def pause_collector() -> Iterator[None]:
    """Context manager: the block runs without the cyclic garbage collector.

    A graph of 10,000 nodes is half a million objects that all stay. The collector would look through all of them, and
    through those of every imported module, again and again, which takes up to half of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
