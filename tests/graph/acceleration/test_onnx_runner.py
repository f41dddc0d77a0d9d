"""What a thread's arithmetic is like while onnxruntime runs, and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guidegraph.graph.acceleration import onnx_backend
from guidegraph.graph.acceleration.onnx_backend import OnnxRunner, flush_denormals
from guidegraph.graph.acceleration.store import GRAPH, GraphDescription, StoredGraph
from guidegraph_runtime.sessions.sessions import SessionSettings

TINY = 1e-39
"""A number below the smallest that float32 has in full precision."""


def compute_tiny() -> float:
    return float(torch.tensor(TINY) * 1.0)


@pytest.fixture
def restored() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot round denormal numbers to zero")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("restored")
def test_tiny_numbers_are_zero_inside_alone() -> None:
    with flush_denormals():
        assert compute_tiny() == 0.0
    assert compute_tiny() == pytest.approx(TINY, rel=1e-5, abs=0.0)


@pytest.mark.usefixtures("restored")
def test_an_error_restores_the_arithmetic() -> None:
    with pytest.raises(KeyError), flush_denormals():
        raise KeyError
    assert compute_tiny() > 0.0


@pytest.mark.usefixtures("restored")
def test_the_callers_own_choice_stays() -> None:
    torch.set_flush_denormal(True)
    with flush_denormals():
        assert compute_tiny() == 0.0
    assert compute_tiny() == 0.0


class EmptySession:
    """A session without inputs."""

    def get_inputs(self) -> list[Any]:
        return []


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("rounded", [False, True])
def test_a_new_session_leaves_the_arithmetic_of_its_thread(monkeypatch: pytest.MonkeyPatch, rounded: bool) -> None:
    """onnxruntime sets that of the thread that makes a process's first session, on or off; its own threads round."""
    made: list[SessionSettings] = []

    def create_session(location: str, data: bytes, weights: Any, settings: SessionSettings) -> EmptySession:
        made.append(settings)
        torch.set_flush_denormal(not rounded)
        return EmptySession()

    monkeypatch.setattr(onnx_backend, "create_session", create_session)
    torch.set_flush_denormal(rounded)
    OnnxRunner(StoredGraph(GraphDescription((), (), {}, ()), {GRAPH: b""}), "cpu")
    assert (compute_tiny() == 0.0) == rounded
    assert [settings.flush_denormals for settings in made] == [True]


def test_a_part_waits_for_the_stream_of_its_own_gpu_after_the_inputs_are_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """onnxruntime has its own stream, so a copy that torch has only queued would be read too early."""
    events: list[Any] = []

    class Session:
        def get_inputs(self) -> list[Any]:
            return [SimpleNamespace(name="x")]

        def io_binding(self) -> Any:
            return SimpleNamespace(bind_input=lambda *_: None, get_outputs=list)

        def run_with_iobinding(self, binding: Any) -> None:
            events.append("run")

    def find_stream(index: int) -> Any:
        return SimpleNamespace(synchronize=lambda: events.append(index))

    copy = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda tensor: events.append("copy") or copy(tensor))
    monkeypatch.setattr(torch.cuda, "current_stream", find_stream)
    monkeypatch.setattr(onnx_backend, "create_session", lambda *_: Session())
    monkeypatch.setattr(onnx_backend, "choose_providers", lambda requested, index: ())
    runner = OnnxRunner(StoredGraph(GraphDescription((("x", (3,)),), (), {}, ()), {GRAPH: b""}), "cuda:1")
    assert runner([torch.zeros(3)]) == []
    assert events == ["copy", 1, "run"]
