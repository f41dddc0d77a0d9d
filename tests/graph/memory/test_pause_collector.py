"""The garbage collector rests while any thread pauses it, and works again afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from guidegraph.graph.memory.pause_collector import pause_collector


@pytest.fixture(autouse=True)
def enabled_collector() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_two_pauses_that_overlap_end_with_the_later_one() -> None:
    """As two threads have them: each may end first."""
    first, second = pause_collector(), pause_collector()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with pause_collector(), pause_collector():
        pass
    assert not gc.isenabled()


def test_an_error_ends_the_pause() -> None:
    with pytest.raises(ValueError, match="no"), pause_collector():
        raise ValueError("no")
    assert gc.isenabled()
