"""What a thread's arithmetic is like while onnxruntime runs, and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
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
