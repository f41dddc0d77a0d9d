"""Intermediate values that a node offers to whoever watches the run, such as x̂0 of a sampler's step.

A viewer only looks: it must not change a value, and a result never depends on it. Without a viewer nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

Viewer: TypeAlias = Callable[[Any], object]

_viewer: ContextVar[Viewer | None] = ContextVar("guidegraph_viewer", default=None)


@contextmanager
def use_viewer(viewer: Viewer) -> Iterator[None]:
    """Context manager: runs in the block, on this thread, pass the values that their nodes offer to ``viewer``."""
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


def offer_value(value: Any) -> None:
    """Pass a value to the viewer of the run, if it has one. For values that are computed, not traced."""
    if (viewer := _viewer.get()) is not None:
        viewer(value)
