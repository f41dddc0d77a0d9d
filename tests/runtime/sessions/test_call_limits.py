"""Calls that take too long are told to end, whatever the calls before them were allowed."""

from __future__ import annotations

import os
import sys
from threading import Event

import pytest

from guidegraph_runtime.sessions.call_limits import WATCH, CallWatch


class Options:
    """The part of `onnxruntime.RunOptions` that a watch sets."""

    def __init__(self) -> None:
        self._terminated = Event()

    @property
    def terminate(self) -> bool:
        return self._terminated.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        (self._terminated.set if value else self._terminated.clear)()

    def wait(self) -> bool:
        """Wait until the call is told to end; False after 30 s."""
        return self._terminated.wait(30)


def is_terminated(watch: CallWatch, seconds: float) -> bool:
    """Whether a call that takes longer than its limit is told to end."""
    options = Options()
    with watch.watch(options, seconds):
        return options.wait()


@pytest.mark.parametrize("earlier", [None, 1e-3, 3600.0, 1e15, float("inf")])
def test_a_call_after_one_of_another_limit(earlier: float | None) -> None:
    watch = CallWatch()
    with watch.watch(Options(), earlier):
        pass
    assert is_terminated(watch, 0.01)


def test_a_call_within_a_longer_one() -> None:
    watch, long = CallWatch(), Options()
    with watch.watch(long, 1e15):
        assert is_terminated(watch, 0.01)
        assert is_terminated(watch, 0.01)
        assert not long.terminate


def test_a_call_that_ends_in_time_is_let_be() -> None:
    watch, options = CallWatch(), Options()
    with watch.watch(options, 0.05):
        pass
    assert is_terminated(watch, 0.1)
    assert not options.terminate


@pytest.mark.skipif(sys.platform != "linux", reason="a forked process")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_watch_of_its_own() -> None:
    assert is_terminated(WATCH, 0.01)
    child = os.fork()
    if child == 0:
        os._exit(0 if is_terminated(WATCH, 0.01) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
