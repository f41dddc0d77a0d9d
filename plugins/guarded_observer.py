"""Wraps observers of plugins, so that a failing one does not end a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.events import Event, Observer
from guidegraph_runtime.error_text import describe_error


class GuardedObserver:
    """A plugin's observer; if it fails, the failure is reported, the observer is left out, and the run continues."""

    def __init__(self, observer: Observer, warn: Callable[[str], object]):
        self._observer: Observer | None = observer
        self._warn = warn

    def __call__(self, event: Event) -> None:
        if self._observer is None:
            return
        try:
            with redirect_stdout(sys.stderr):  # a program may read a command's standard output
                self._observer(event)
        except BaseException as error:
            if is_interrupt(error):
                raise
            name = getattr(self._observer, "__qualname__", type(self._observer).__name__)
            self._warn(f"warning: the observer {name} failed and is left out: {describe_error(error)}")
            self._observer = None
