"""CFG-Zero*: its guidance against another implementation and a flow's sampler, its limits, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.guiders import ClassifierFreeZeroStarGuidance

import guidegraph_cfg_zero_star as cfg_zero_star
from guidegraph import Prediction, StepContext, load_workflow
from guidegraph.nodes.guidance.step_context import context
from guidegraph.nodes.sampling import scheduler as schedulers
from guidegraph.nodes.sampling.scheduler_step import step
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made
from tests.nodes.sampling.closed_form import network, scaled_linear

WORKFLOW = Path(cfg_zero_star.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_cfg_zero_star",)
ALPHA, SIGMA = 0.6, 0.8
KINDS = pytest.mark.parametrize("kind", ["eps", "x0", "v"])


def random(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(row: int) -> StepContext:
    alpha, sigma = (torch.tensor([level], dtype=torch.float64) for level in (ALPHA, SIGMA))
    return StepContext(random(row), torch.tensor([500.0]), alpha, sigma, torch.tensor([row]), torch.tensor([10]))


def velocity(step_context: StepContext, prediction: Prediction) -> torch.Tensor:
    return step_context.eps(prediction) - step_context.x0(prediction)


def of_velocity(step_context: StepContext, u: torch.Tensor, kind: Any) -> Prediction:
    x0 = (step_context.x - SIGMA * u) / (ALPHA + SIGMA)
    return step_context.convert(Prediction(x0, "x0"), kind)


@KINDS
@pytest.mark.parametrize("row", [0, 1, 2, 9])
def test_it_is_the_papers_velocity(kind: str, row: int) -> None:
    step_context = at(row)
    cond, uncond = Prediction(random(20), kind, variance=random(22)), Prediction(random(21), kind)
    guider = ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=2)
    guider.set_state(step=row, num_inference_steps=10, timestep=step_context.t)
    expected = guider.forward(velocity(step_context, cond), velocity(step_context, uncond)).pred
    actual = cfg_zero_star.guide(cond, uncond, step_context, scale=4.0, zero_steps=2)
    assert actual.kind == kind
    assert actual.variance is cond.variance
    # diffusers computes s* in float32
    torch.testing.assert_close(velocity(step_context, actual), expected, rtol=1e-5, atol=1e-5)


@KINDS
def test_ddim_with_it_is_the_papers_flow_sampler(kind: str) -> None:
    """Euler's steps of a flow, τ from 1 to 0, with the paper's algorithm on u = ε − x0."""
    sampler = schedulers.ddim(scaled_linear(), steps=8)
    x, state, table = random(3), sampler.state, sampler.scheduler
    end = torch.cat([table.sigma / (table.alpha + table.sigma), torch.zeros(1, dtype=torch.float64)])

    def prediction(x: torch.Tensor, alpha: Any, sigma: Any) -> tuple[Prediction, Prediction]:
        uncond = network(x, alpha, sigma, "x0").value
        return Prediction(0.8 * uncond + 0.3 * x.mean((2, 3), keepdim=True), "x0"), Prediction(uncond, "x0")

    flow = x / (table.alpha[0] + table.sigma[0])
    for row in range(8):
        alpha, sigma = table.alpha[row], table.sigma[row]
        scaled = flow * (alpha + sigma)
        u_cond, u_uncond = ((scaled - alpha * p.value) / sigma - p.value for p in prediction(scaled, alpha, sigma))
        star = (u_cond * u_uncond).sum((1, 2, 3), keepdim=True) / (u_uncond**2).sum((1, 2, 3), keepdim=True)
        u = (1 - 3.0) * star * u_uncond + 3.0 * u_cond if row >= 1 else torch.zeros_like(flow)
        flow = flow + (end[row + 1] - end[row]) * u
    for row, t in enumerate(sampler.steps.split(1)):
        step_context = context(table, x, state, t)
        cond, uncond = (step_context.convert(p, kind) for p in prediction(x, table.alpha[row], table.sigma[row]))
        x, state = step(table, x, cfg_zero_star.guide(cond, uncond, step_context, scale=3.0), state, t)
    torch.testing.assert_close(x, flow, rtol=1e-6, atol=1e-6)


def test_where_the_scale_is_one_it_is_classifier_free_guidance() -> None:
    step_context, u = at(5), random(1)
    orthogonal = random(2)
    orthogonal = orthogonal - (orthogonal * u).sum((1, 2, 3), keepdim=True) / (u * u).sum((1, 2, 3), keepdim=True) * u
    cond, uncond = of_velocity(step_context, u + orthogonal, "eps"), of_velocity(step_context, u, "eps")
    scales = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    actual = cfg_zero_star.guide(cond, uncond, step_context, scale=scales, zero_steps=0)
    torch.testing.assert_close(actual.value, (uncond + scales * (cond - uncond)).value)


@KINDS
def test_a_parallel_unconditional_prediction_changes_nothing(kind: str) -> None:
    step_context, u = at(5), random(1)
    cond, uncond = of_velocity(step_context, u, kind), of_velocity(step_context, 0.7 * u, kind)
    torch.testing.assert_close(cfg_zero_star.guide(cond, uncond, step_context, scale=9.0).value, cond.value)


def test_a_sample_does_not_depend_on_the_others() -> None:
    step_context, cond, uncond = at(5), random(1), random(2)
    batch = cfg_zero_star.guide(Prediction(cond, "v"), Prediction(uncond, "v"), step_context)
    single = StepContext(
        step_context.x[1:2],
        step_context.t,
        step_context.alpha,
        step_context.sigma,
        step_context.step,
        step_context.steps,
    )
    alone = cfg_zero_star.guide(Prediction(cond[1:2], "v"), Prediction(uncond[1:2], "v"), single)
    torch.testing.assert_close(alone.value, batch.value[1:2])


def test_the_workflow_draws_and_x_stays_for_the_zero_steps() -> None:
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    actual = {k: workflow.run(steps=3, batch=2, zero_steps=k)["image"] for k in (0, 1, 3, 5)}
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, steps=3, batch=2)["image"]
    assert (actual[0] - plain).abs().max() > 0.05
    assert (actual[1] - actual[0]).abs().max() > 0.05
    assert torch.equal(actual[3], actual[5])  # all steps still: the noise itself is decoded


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=3, batch=2, zero_steps=2)
    assert "zero_steps" not in exported.bundle.manifest.inputs
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5, "batch": 3, "scale": 8.0}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
