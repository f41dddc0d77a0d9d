"""Every shipped workflow that draws gives the same pictures when it is accelerated, within two of 255 levels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.graph.acceleration.accelerator import forget_graphs
from guidegraph.graph.events import Event, PartAccelerated
from tests.paths import ROOT
from tests.whole.test_workflows import WORKFLOWS, parameters

OTHER = ("data", "evaluate", "experiments", "train")
TABLES = ("layout_128.yaml",)
DRAWING = [path for path in WORKFLOWS if path.parent.name not in OTHER and path.name not in TABLES]
LEVELS = 2 / 127.5
"""Two of 255 levels of pictures from -1 to 1."""


def draw(workflow: Path, accelerate: str, events: list[PartAccelerated], **params: Any) -> dict[str, Any]:
    def observe(event: Event) -> None:
        if isinstance(event, PartAccelerated):
            events.append(event)

    loaded = load_workflow(ROOT / workflow, cache="off", observers=[observe], accelerate=accelerate, plugins=())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of the range.*")  # after few steps
        return loaded.run(**params)


@pytest.mark.slow
@pytest.mark.parametrize("workflow", DRAWING, ids=str)
def test_an_accelerated_workflow_draws_the_same(
    workflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget_graphs()
    declared = parameters(workflow)
    params = {name: 6 for name in ("steps", "ancestral_steps") if name in declared}
    events: list[PartAccelerated] = []
    expected = draw(workflow, "", events, **params)
    for _ in range(2):  # the second run uses the graphs from its first step on
        results = draw(workflow, "onnx", events, **params)
        pictures = {name: value for name, value in results.items() if isinstance(value, torch.Tensor)}
        assert pictures
        for name, value in pictures.items():
            assert value.shape == expected[name].shape
            assert float((value - expected[name]).abs().max()) <= LEVELS, name
    states = {event.state for event in events}
    assert "exported" in states
    assert "refused" not in states
    forget_graphs()
