"""An error in a worker process becomes the cell's outcome, as text that can be pickled."""

from __future__ import annotations

from pathlib import Path

import pytest

from guidegraph.graph.trust.policy import OWN_WORKFLOW
from guidegraph.sweep import ray_worker


class Unpicklable(Exception):
    """It holds a function, which cannot be pickled, and has no text."""

    def __init__(self) -> None:
        self.function = lambda: None

    def __str__(self) -> str:
        raise RuntimeError


def test_an_exception_that_cannot_be_pickled_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(order: ray_worker.SweepOrder) -> None:
        raise Unpicklable

    monkeypatch.setattr(ray_worker, "_Process", fail)
    order = ray_worker.SweepOrder(Path("w.yaml"), {}, None, "cpu", "float32", (), True, {}, None, OWN_WORKFLOW)
    result = ray_worker.run_cell(order, "key", {})
    assert result.outcome.status == "failed"
    assert result.outcome.message.startswith("on this worker: Unpicklable: (its text cannot be shown")
    assert result.files == {}
