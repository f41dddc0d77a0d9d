"""The workflows that compute less of the network: what they compute, and pictures that do not depend on the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guidegraph import Condition, Prediction, load_workflow
from guidegraph.nodes.models.model_nodes import load_model
from guidegraph.nodes.models.networks.hooks import Hooks
from guidegraph.nodes.models.own.unet import UNetDenoiser, UNetTrunk
from guidegraph.nodes.sampling.scheduler import ddim
from guidegraph.nodes.types import Sample
from tests.paths import ROOT

WORKFLOWS = ROOT / "workflows"
DEEP = WORKFLOWS / "fast" / "deep_features.yaml"
PIXEL = 2 / 255  # one level of 255 on [-1, 1]
TWO = ["a tiger on grass", "an elephant on snow"]


def draw(path: Path, **params: Any) -> torch.Tensor:
    image: torch.Tensor = load_workflow(path, cache="off").run(**params)["image"]
    return image


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """For each call of the denoiser in a loop: its number of samples, and whether it computes the middle."""
    calls: list[tuple[int, bool]] = []
    forward, run_middle = UNetDenoiser.forward, UNetTrunk.run_middle

    def call(
        self: UNetDenoiser, x: Sample, t: torch.Tensor, condition: Condition, hooks: Hooks | None = None
    ) -> Prediction:
        calls.append((x.shape[0], False))
        return forward(self, x, t, condition, hooks)

    def visit(self: UNetTrunk, *arguments: Any) -> torch.Tensor:
        calls[-1] = (calls[-1][0], True)
        return run_middle(self, *arguments)

    monkeypatch.setattr(UNetDenoiser, "forward", call)
    monkeypatch.setattr(UNetTrunk, "run_middle", visit)
    return calls


def test_deep_features_at_every_step_give_the_default_picture_bit_for_bit() -> None:
    default = draw(WORKFLOWS / "text_to_image.yaml", steps=4, batch=2, prompt=TWO)
    assert torch.equal(draw(DEEP, steps=4, batch=2, prompt=TWO, every=1), default)
    assert (draw(DEEP, steps=4, batch=2, prompt=TWO, every=2) - default).abs().max() > PIXEL


def test_the_deep_part_is_computed_at_every_nth_step(rows: list[tuple[int, bool]]) -> None:
    draw(DEEP, steps=5, every=3)
    for_memory = (1, True)
    assert rows == [for_memory, (2, True), (2, False), (2, False), (2, True), (2, False)]


def test_a_picture_of_deep_features_is_the_same_alone_and_in_a_batch() -> None:
    alone = draw(DEEP, steps=5, seed=7, prompt=TWO[1])[0]
    member = draw(DEEP, steps=5, seed=6, batch=2, prompt=TWO)[1]
    plain = load_workflow(DEEP, passes=(), cache="off").run(steps=5, seed=7, prompt=TWO[1])["image"][0]
    assert (alone - member).abs().max() <= PIXEL
    assert (alone - plain).abs().max() <= PIXEL


def test_a_cache_and_a_sweep_cell_give_the_same_picture(tmp_path: Path) -> None:
    workflow = load_workflow(DEEP, cache=tmp_path)
    first = workflow.run(steps=3, every=2)["image"]
    assert torch.equal(load_workflow(DEEP, cache=tmp_path).run(steps=3, every=2)["image"], first)
    assert torch.equal(draw(DEEP, steps=3, every=2), first)
    assert not torch.equal(workflow.run(steps=3, every=3)["image"], first)


def test_outside_of_the_interval_only_the_condition_is_predicted(rows: list[tuple[int, bool]]) -> None:
    path = WORKFLOWS / "fast" / "guidance_interval.yaml"
    draw(path, steps=6)
    schedule = load_model(path=WORKFLOWS / "models" / "scenes").schedule
    guided = [400 <= float(t) <= 1000 for t in ddim(schedule, steps=6).steps]
    assert 0 < sum(guided) < 6
    assert rows == [(2 if inside else 1, True) for inside in guided]
    everywhere = draw(path, steps=3, low=0.0)
    assert torch.equal(everywhere, draw(WORKFLOWS / "text_to_image.yaml", steps=3))


def test_fewer_steps_are_a_third_of_the_default(rows: list[tuple[int, bool]]) -> None:
    draw(WORKFLOWS / "fast" / "fewer_steps.yaml")
    assert rows == [(2, True)] * 10
