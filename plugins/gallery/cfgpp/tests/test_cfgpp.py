"""CFG++: the paper's sampling loop, how its λ relates to a guidance scale, the workflow, the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import guidegraph_cfgpp as cfgpp
from guidegraph import Prediction, WorkflowError, load_workflow
from guidegraph.nodes.sampling import scheduler as schedulers
from guidegraph.nodes.sampling.scheduler_step import step
from tests.graph.export.exporting import LEVEL, difference, made
from tests.nodes.sampling.closed_form import eps_star, scaled_linear

WORKFLOW = Path(cfgpp.__file__).with_name("text_to_image.yaml")
PLUGIN = ("guidegraph_cfgpp",)
SAMPLER = schedulers.ddim(scaled_linear(), steps=9)
ALPHA = torch.cat([SAMPLER.scheduler.alpha, torch.ones(1, dtype=torch.float64)])
SIGMA = torch.cat([SAMPLER.scheduler.sigma, torch.zeros(1, dtype=torch.float64)])


def random(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predict(x: torch.Tensor, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ε_c and ε_∅: those of Gaussian data, with two means."""
    alpha, sigma = ALPHA[row], SIGMA[row]
    return eps_star(x - 0.5 * alpha, alpha, sigma), eps_star(x, alpha, sigma)


def sample(x: torch.Tensor, strength: float, kind: str = "eps") -> torch.Tensor:
    """The loop of the workflow."""
    state = SAMPLER.state
    for row, t in enumerate(SAMPLER.steps.split(1)):
        alpha, sigma = ALPHA[row], SIGMA[row]
        as_kind = [e if kind == "eps" else (e - sigma * x) / alpha for e in predict(x, row)]
        cond, uncond = (Prediction(value, kind) for value in as_kind)  # type: ignore[arg-type]
        guided = cfgpp.guide(cond, uncond, strength=strength)
        x, state = step(SAMPLER.scheduler, x, guided, state, t, renoise=uncond)
    return x


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_it_is_the_papers_algorithm(strength: float, kind: str) -> None:
    x = expected = random(0)
    for row in range(9):
        cond, uncond = predict(expected, row)
        guided = uncond + strength * (cond - uncond)
        x0 = (expected - SIGMA[row] * guided) / ALPHA[row]
        expected = ALPHA[row + 1] * x0 + SIGMA[row + 1] * uncond
    torch.testing.assert_close(sample(x, strength, kind), expected)


def test_it_equals_guidance_with_a_scale_that_falls_to_lambda() -> None:
    x, strength = random(0), 0.6
    ratio, guided, state, scales = SIGMA / ALPHA, x, SAMPLER.state, []
    for row, t in enumerate(SAMPLER.steps.split(1)):
        scales.append(float(strength * ratio[row] / (ratio[row] - ratio[row + 1])))
        cond, uncond = predict(guided, row)
        prediction = Prediction(uncond + scales[-1] * (cond - uncond), "eps")
        guided, state = step(SAMPLER.scheduler, guided, prediction, state, t)
    torch.testing.assert_close(sample(x, strength), guided)
    assert scales[-1] == pytest.approx(strength)
    assert min(scales[:-1]) > strength


def test_learned_variance_is_that_of_cond_and_lambda_one_is_cond() -> None:
    cond, uncond = Prediction(random(1), "eps", variance=random(3)), Prediction(random(2), "eps")
    for strength in (0.4, 1.0):
        actual = cfgpp.guide(cond, uncond, strength=strength)
        assert actual.variance is cond.variance
    torch.testing.assert_close(actual.value, cond.value)


def test_a_sample_does_not_depend_on_the_others() -> None:
    torch.testing.assert_close(sample(random(0)[1:2], 0.6), sample(random(0), 0.6)[1:2])


def test_the_workflow_draws() -> None:
    workflow = load_workflow(WORKFLOW, plugins=PLUGIN)
    actual = {strength: workflow.run(steps=3, batch=2, scale=strength)["image"] for strength in (0.0, 0.6, 1.0)}
    assert all(image.shape == (2, 3, 64, 64) and image.isfinite().all() for image in actual.values())
    assert (actual[0.0] - actual[0.6]).abs().max() > 0.05
    assert (actual[0.6] - actual[1.0]).abs().max() > 0.05


@pytest.mark.parametrize("strength", [-0.1, 1.5])
def test_a_guidance_scale_is_refused(strength: float) -> None:
    with pytest.raises(WorkflowError, match="scale"):
        load_workflow(WORKFLOW, plugins=PLUGIN).run(steps=2, scale=strength)


@pytest.mark.slow
def test_the_bundle_draws_what_the_engine_draws(tmp_path: Path) -> None:
    exported = made(WORKFLOW, tmp_path, PLUGIN, steps=3, batch=2)
    (tmp_path / "engine").mkdir()
    for parameters in ({}, {"steps": 5, "batch": 3, "scale": 0.9}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL
