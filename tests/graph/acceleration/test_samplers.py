"""Accelerated runs with the built-in samplers, whose state has one row for all samples of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import load_workflow
from guidegraph.graph.acceleration.accelerator import forget_graphs
from guidegraph.graph.events import Event, PartAccelerated
from guidegraph.nodes.models.own.unet import UNet
from tests.slow_cases import mark_slow

WORKFLOW = """
guidegraph: 1
params: {sampler: ddim, batch: {default: 1}, seed: {default: 0}, steps: {default: 5}, scale: {default: 2.0}}
nodes:
  denoiser: {use: quick.denoiser}
  schedule: {use: schedule.cosine}
  scheduler: {use: scheduler.named, in: {schedule: schedule, sampler: params.sampler, steps: params.steps}}
  noise: {use: noise.gaussian, in: {seed: params.seed, batch: params.batch}, with: {shape: [4, 8, 8]}}
  sample:
    loop: {over: scheduler.steps, as: t}
    carry: {x: noise, state: scheduler.state}
    body:
      a: {use: denoiser.predict, in: {denoiser: denoiser, x: carry.x, t: loop.t}}
      fresh: {use: noise.gaussian, in: {like: carry.x, index: loop.index, seed: params.seed}}
      step:
        use: scheduler.step
        in: {scheduler: scheduler.scheduler, x: carry.x, prediction: a, noise: fresh, state: carry.state, t: loop.t}
    next: {x: step.x, state: step.state}
outputs: {x: sample.x, state: sample.state}
"""


@pytest.fixture
def workflow(parts_folder: Path, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sampler.yaml"
    path.write_text(WORKFLOW, encoding="utf-8")
    forget_graphs()
    yield path
    forget_graphs()


def run(path: Path, accelerate: str, events: list[PartAccelerated], **params: Any) -> dict[str, Any]:
    def observe(event: Event) -> None:
        if isinstance(event, PartAccelerated):
            events.append(event)

    plugins = ["tests.graph.acceleration.quick_nodes"]
    workflow = load_workflow(path, cache="off", plugins=plugins, observers=[observe], accelerate=accelerate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return workflow.run(**params)


SAMPLERS = ("ddim", "euler_ancestral", "dpmpp_2m", "unipc", "heun")
MOST_PARTS = ("unipc", "heun")
"""The steps of the others have no more parts."""


@pytest.mark.parametrize("sampler", mark_slow(SAMPLERS, MOST_PARTS))
def test_a_batch_of_any_size_is_accelerated(workflow: Path, sampler: str) -> None:
    for batch in (3, 1, 2):
        events: list[PartAccelerated] = []
        params = {"sampler": sampler, "batch": batch, "seed": 4}
        eager, fast = (run(workflow, accelerate, events, **params) for accelerate in ("", "onnx"))
        torch.testing.assert_close(fast["x"], eager["x"], atol=1e-4, rtol=0)
        assert "refused" not in {event.state for event in events}
        assert torch.equal(fast["state"].index, eager["state"].index)


def test_the_network_runs_in_the_graph_for_a_batch(workflow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from guidegraph.graph.acceleration.onnx_backend import OnnxRunner

    calls: list[int] = []
    call = OnnxRunner.__call__
    monkeypatch.setattr(OnnxRunner, "__call__", lambda self, tensors: calls.append(0) or call(self, tensors))
    run(workflow, "onnx", [], batch=3, steps=6)
    calls.clear()
    run(workflow, "onnx", [], batch=3, steps=6)
    assert len(calls) == 6


@pytest.mark.parametrize("batch", [1, 3])
def test_the_first_step_runs_in_the_graph_too(workflow: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """A sampler's state has no size before the first step."""
    calls: list[int] = []
    forward = UNet.forward

    def count(*args: Any, **by_name: Any) -> Any:
        calls.append(1)
        return forward(*args, **by_name)

    monkeypatch.setattr(UNet, "forward", count)
    first = run(workflow, "onnx", [], batch=batch)
    assert calls, "it is exported and compared"
    calls.clear()
    torch.testing.assert_close(run(workflow, "onnx", [], batch=batch)["x"], first["x"])
    assert not calls
    forget_graphs()
    torch.testing.assert_close(run(workflow, "onnx", [], batch=batch)["x"], first["x"])
    assert len(calls) == 1, "the comparison, as in another process"
