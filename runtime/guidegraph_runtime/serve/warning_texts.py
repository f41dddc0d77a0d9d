"""Warnings about a request, such as unknown words of its prompt: they are for its client, not for the server's log."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar("guidegraph_serve_warnings", default=None)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """The texts of the warnings of the block, in a process where ``show_collected`` was called."""
    texts: list[str] = []
    token = _collected.set(texts)
    try:
        yield texts
    finally:
        _collected.reset(token)


def show_collected(show_other: Callable[[str], object]) -> None:
    """From now on, give warnings to ``collect_warnings``, and those outside of its blocks to ``show_other``.

    Each is shown each time, so that Python does not remember all texts that it has shown.
    """

    def show(message: Warning | str, *_: object, **__: object) -> None:
        texts = _collected.get()
        if texts is None:
            show_other(str(message))
        elif str(message) not in texts:
            texts.append(str(message))

    warnings.simplefilter("always", UserWarning)
    warnings.showwarning = show
