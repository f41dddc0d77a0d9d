"""Adaptive projected guidance: its equation against another implementation, its limits, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

import guidegraph_apg as apg
from guidegraph import Prediction, StepContext, load_workflow
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

WORKFLOW = Path(apg.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_apg",)
PLAIN = {"eta": 1.0, "beta": 0.0, "radius": 1e9}
"""The settings of classifier-free guidance."""
KINDS = pytest.mark.parametrize("kind", ["eps", "x0", "v"])


def random(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(seed: int) -> StepContext:
    row = torch.tensor([0])
    alpha, sigma = (torch.tensor([level], dtype=torch.float64) for level in (0.6, 0.8))
    return StepContext(random(seed), torch.tensor([500.0]), alpha, sigma, row, row + 10)


def predictions(seed: int, kind: Any) -> tuple[Prediction, Prediction]:
    return Prediction(random(seed), kind, variance=random(seed + 2)), Prediction(random(seed + 1), kind)


@KINDS
@pytest.mark.parametrize(("eta", "beta", "radius"), [(0.0, -0.5, 5.0), (0.3, 0.4, 8.0), (0.0, -0.75, 1e3)])
def test_it_is_the_papers_update_of_x0(kind: str, eta: float, beta: float, radius: float) -> None:
    buffer, momentum = MomentumBuffer(beta), apg.start(random(0))
    for step in range(3):
        context, (cond, uncond) = at(10 * step), predictions(100 * step + 7, kind)
        x0 = [context.x0(cond), context.x0(uncond)]
        # diffusers adds to the unconditional prediction by default, and works on whatever the model predicts
        expected = normalized_guidance(*x0, 6.5, buffer, eta, radius, use_original_formulation=True)
        actual, momentum = apg.guide(cond, uncond, context, momentum, scale=7.5, eta=eta, beta=beta, radius=radius)
        assert actual.kind == kind
        assert actual.variance is cond.variance
        torch.testing.assert_close(context.x0(actual), expected)


@KINDS
def test_with_all_of_the_difference_it_is_classifier_free_guidance(kind: str) -> None:
    context, (cond, uncond) = at(0), predictions(5, kind)
    scales = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    actual, momentum = apg.guide(cond, uncond, context, apg.start(context.x), scale=scales, **PLAIN)
    torch.testing.assert_close(actual.value, (uncond + scales * (cond - uncond)).value)
    torch.testing.assert_close(momentum, context.x0(cond) - context.x0(uncond))


def test_the_update_is_orthogonal_to_the_prediction_and_no_longer_than_the_radius() -> None:
    context, (cond, uncond) = at(0), predictions(5, "v")
    actual, _ = apg.guide(cond, uncond, context, apg.start(context.x), scale=3.0, eta=0.0, beta=0.0, radius=2.0)
    update = (context.x0(actual) - context.x0(cond)).flatten(1) / 2
    assert (update * context.x0(cond).flatten(1)).sum(1).abs().max() < 1e-12
    assert 0.5 < update.norm(dim=1).min() <= update.norm(dim=1).max() <= 2.0


def test_equal_predictions_stay_as_they_are() -> None:
    context, (cond, _) = at(0), predictions(5, "eps")
    actual, _ = apg.guide(cond, cond, context, apg.start(context.x))
    torch.testing.assert_close(actual.value, cond.value)


def test_a_sample_does_not_depend_on_the_others() -> None:
    context, (cond, uncond), momentum = at(0), predictions(5, "v"), random(9)
    batch = apg.guide(cond, uncond, context, momentum)
    single = StepContext(context.x[1:2], context.t, context.alpha, context.sigma, context.step, context.steps)
    alone = apg.guide(Prediction(cond.value[1:2], "v"), Prediction(uncond.value[1:2], "v"), single, momentum[1:2])
    torch.testing.assert_close(alone.prediction.value, batch.prediction.value[1:2])
    torch.testing.assert_close(alone.momentum, batch.momentum[1:2])


def test_the_workflow_draws_and_has_classifier_free_guidance_as_its_limit() -> None:
    params = {"steps": 3, "batch": 2, "scale": 4.0}
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, **params)["image"]
    assert (workflow.run(**params, **PLAIN)["image"] - plain).abs().max() < 1e-3
    for settings in ({}, {**PLAIN, "eta": 0.0}, {**PLAIN, "beta": -0.5}, {**PLAIN, "radius": 5.0}):
        assert (workflow.run(**params, **settings)["image"] - plain).abs().max() > 0.05, settings


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=3, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5, "batch": 3, "scale": 12.0, "eta": 0.5, "beta": -0.75, "radius": 2.5}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
