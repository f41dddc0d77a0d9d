"""Observers of plugins, wrapped so that a failing one does not end a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import pluggy

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.events import Event, Observer
from guidegraph.plugins.entry_points import PluginError
from guidegraph.plugins.hookspecs import RunInfo, hook_of
from guidegraph_runtime.error_text import describe_error

if TYPE_CHECKING:
    from guidegraph.graph.ir import Graph
    from guidegraph.graph.run_config import RunConfig

HOOK = "guidegraph_observer"


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


def make_observers(
    hooks: pluggy.PluginManager,
    graph: Graph,
    params: Mapping[str, Any],
    config: RunConfig,
    warn: Callable[[str], object],
    report: Callable[[str, BaseException], None],
) -> list[Observer]:
    """The observers of a run with these parameters, which are copied for them if a plugin has the hook.

    report: called with a plugin whose hook fails, and with the error. warn: called if an observer fails later.
    """
    observers: list[Observer] = []
    if not getattr(hooks.hook, HOOK).get_hookimpls():
        return observers
    info = RunInfo(graph, params, config.device, config.dtype)
    for name, plugin in hooks.list_name_plugin():
        try:
            with redirect_stdout(sys.stderr):
                returned = hook_of(hooks, HOOK, plugin)(run=info)
            if unfit := [o for o in returned if not callable(o)]:
                raise PluginError(f"{HOOK} returned {unfit[0]!r}", "return a callable, or None")
            observers += [GuardedObserver(o, warn) for o in returned]
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            report(name, error)
    return observers
