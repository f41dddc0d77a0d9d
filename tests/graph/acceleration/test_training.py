"""Training of accelerated runs: nothing in it is accelerated, and its checkpoint is that of any other run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Cancelled
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Event, LoopProgress
from tests.graph.engine_nodes import run_text
from tests.graph.training.test_fit import text


def stop_after(step: int) -> dict[str, Any]:
    token = CancelToken()

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress) and event.done == step:
            token.cancel()

    return {"cancel": token, "observers": [observe]}


@pytest.mark.parametrize(("first", "second"), [("onnx", ""), ("", "onnx"), ("onnx", "onnx")])
def test_a_training_goes_on_from_its_checkpoint_with_or_without_an_accelerator(
    first: str, second: str, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    expected = run_text(text(12, dropout=0.3), whole).outputs
    with pytest.raises(Cancelled):
        run_text(text(12, checkpoint=True, dropout=0.3), broken, accelerate=first, **stop_after(7))
    steps: list[int] = []

    def observe(event: Event) -> None:
        if isinstance(event, LoopProgress):
            steps.append(event.done)

    resumed = run_text(text(12, checkpoint=True, dropout=0.3), broken, accelerate=second, observers=[observe]).outputs
    assert steps[0] == 8
    assert torch.equal(resumed["loss"], expected["loss"])
    assert torch.equal(resumed["net"].weight, expected["net"].weight)
