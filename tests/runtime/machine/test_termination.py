"""The end of a process at once: the calls that are made before it."""

from __future__ import annotations

import os
import sys

import pytest

from guidegraph_runtime.machine.termination import CANCELLED, before_exit, end_at_once


def test_the_calls_before_the_end_are_made_from_the_innermost_outwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a folder's record is written while its lock is held."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    calls: list[str] = []

    def fail() -> None:
        calls.append("record")
        raise OSError("disk full")

    with (
        before_exit(lambda: calls.append("lock")),
        before_exit(fail),
        pytest.raises(SystemExit) as ended,
    ):
        end_at_once()
    assert (calls, ended.value.code) == (["record", "lock"], CANCELLED)
