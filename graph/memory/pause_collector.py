"""Pauses the cyclic garbage collector during imports, while a workflow is loaded, and while its steps are laid out."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses: list[bool] = []
"""For each pause of any thread that has not ended: whether the collector was enabled when the first one began."""
_exempts_imports = False
MANY_OBJECTS = 20_000
"""The number of objects from which on a pause counts those that it leaves as old."""
MANY_PROMOTED = 1_000_000
"""The number of objects counted as old after which the end of a pause looks through all objects."""
_promoted = 0
"""The objects that pauses have left to the next full collection."""


@contextmanager
def pause_collector() -> Iterator[None]:
    """Context manager: the block runs without the cyclic garbage collector, which all threads share.

    A graph of 10,000 nodes is half a million objects that all stay. The collector would look through all of them, and
    through the objects of every imported module, again and again. This takes up to half of the time, and a fifth of the
    import of torch.
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
                _promote_young()
                gc.enable()


def _promote_young() -> None:
    """Count many objects that a pause leaves as old, which spares a look through all of them as soon as it ends.

    Those among them that are no longer used, but refer to each other in a circle, wait for a full collection. After
    ``MANY_PROMOTED`` objects there is one.
    """
    global _promoted
    young = gc.get_count()[0]
    if young < MANY_OBJECTS or _exempts_imports or gc.get_freeze_count():
        return
    if _promoted > MANY_PROMOTED:
        gc.collect()
        _promoted = 0
        return
    gc.freeze()
    gc.unfreeze()
    _promoted += young


def exempt_imports() -> None:
    """From now on, the collector leaves out what exists when `pause_for_import` ends. For the process of a command.

    What torch and the nodes define stays until the process ends. Otherwise the collector looks through all of it
    once after the import, again during a run, and at the exit, which takes half a second in all.
    """
    global _exempts_imports
    _exempts_imports = True


@contextmanager
def pause_for_import() -> Iterator[None]:
    """Context manager: the block imports modules without the collector. See `exempt_imports`.

    Objects that are exempt are freed with their last reference, but not if they refer to each other in a circle. So
    nothing is exempted by a block that imports nothing, such as a second run's.
    """
    imported = len(sys.modules)
    with pause_collector():
        try:
            yield
        finally:
            if _exempts_imports and len(sys.modules) > imported:
                gc.freeze()
