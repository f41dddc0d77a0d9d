"""Runners that a process keeps for later runs: threads share them, and the least recently used are dropped."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from guidegraph.graph.acceleration import compile_backend, onnx_backend
from guidegraph.graph.acceleration.compile_backend import CompileBackend
from guidegraph.graph.acceleration.onnx_backend import OnnxBackend
from guidegraph.graph.run_config import RunConfig


class Session:
    """Fits or not; meanwhile, another thread may do something."""

    nbytes = 1

    def __init__(self, fits: bool, other: threading.Thread | None = None):
        self._fits, self._other = fits, other

    def fits(self, tensors: Any) -> bool:
        if self._other is not None:
            self._other.start()
            self._other.join(0.1)
        return self._fits


def identify_by_part(self: Any, part: Any, flat: Any) -> Any:
    return part


def test_two_threads_find_sessions_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxBackend, "identify", identify_by_part)
    onnx_backend.forget_sessions()
    backend: Any = OnnxBackend(RunConfig(accelerate="onnx"))
    other = threading.Thread(target=backend.find, args=("other", [], []))
    sessions: Any = onnx_backend._sessions
    sessions["key", "cpu", 0] = last = Session(True)
    sessions["other", "cpu", 1] = Session(True)
    sessions["key", "cpu", 2] = Session(False, other)
    assert backend.find("key", [], []) is last
    other.join()
    onnx_backend.forget_sessions()


def test_a_compiled_part_that_is_found_is_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompileBackend, "identify", identify_by_part)
    functions: Any = {"first": 1, "second": 2}
    monkeypatch.setattr(compile_backend, "_functions", compile_backend.OrderedDict(functions))
    backend: Any = CompileBackend(RunConfig(accelerate="compile"))
    assert backend.find("first", [], []) == 1
    assert backend.find("third", [], []) is None
    assert [*compile_backend._functions] == ["second", "first"]
