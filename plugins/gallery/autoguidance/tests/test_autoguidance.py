"""Autoguidance: equation 3 in closed form, its limits, and the workflow with the weaker model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import guidegraph_autoguidance as autoguidance
from guidegraph import Prediction, StepContext, load_workflow
from guidegraph_testing import Check, NodeCase, conformance_cases, example
from tests.graph.export.exporting import LEVEL, WORKFLOWS, difference, made

FOLDER = Path(autoguidance.__file__).parent
PLUGINS = ("guidegraph_autoguidance",)


def draw(seed: int) -> Tensor:
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def v(seed: int) -> Prediction:
    return Prediction(draw(seed), "v")


def context() -> StepContext:
    bar = torch.tensor([0.36], dtype=torch.float64)
    ones = torch.ones(1, dtype=torch.int64)
    return StepContext(draw(9), torch.tensor([10.0]), bar.sqrt(), (1 - bar).sqrt(), ones, 5 * ones)


def test_it_is_equation_3_of_the_denoisers_whatever_the_kind() -> None:
    """D_w = w D₁ + (1 − w) D₀ holds for x̂₀, made of predictions of v, of ε or of x₀."""
    step_context, strong, weak = context(), v(1), v(2)
    expected = 2.5 * step_context.x0(strong) + (1 - 2.5) * step_context.x0(weak)
    for kind in ("v", "eps", "x0"):
        actual = autoguidance.guide(step_context.convert(strong, kind), step_context.convert(weak, kind), weight=2.5)
        torch.testing.assert_close(step_context.x0(actual), expected)


def test_the_solution_between_two_gaussians_is_that_of_the_closed_form() -> None:
    """p_w ∝ p₁ (p₁/p₀)^(w−1): of Gaussians N(m₁, s²) and N(m₀, s²) it is N(m₁ + (w − 1)(m₁ − m₀), s²)."""
    bar, variance, weight = 0.36, 0.5, 3.0
    x = draw(9)

    def x0(mean: float) -> Prediction:
        gain = bar**0.5 * variance / (bar * variance + 1 - bar)
        return Prediction(mean + gain * (x - bar**0.5 * mean), "x0")

    actual = autoguidance.guide(x0(0.4), x0(0.1), weight=weight)
    torch.testing.assert_close(actual.value, x0(0.4 + (weight - 1) * (0.4 - 0.1)).value)


def test_weight_1_is_classifier_free_guidance_and_scale_1_leaves_it_out() -> None:
    cond, weak, uncond = v(1), v(2), v(3)
    free = autoguidance.guide(cond, weak, uncond, weight=1.0, scale=4.0)
    torch.testing.assert_close(free.value, uncond.value + 4 * (cond.value - uncond.value))
    alone = autoguidance.guide(cond, weak, uncond, weight=2.0, scale=1.0)
    torch.testing.assert_close(alone.value, autoguidance.guide(cond, weak, weight=2.0).value)
    actual = autoguidance.guide(cond, weak, uncond, weight=2.0, scale=4.0)
    torch.testing.assert_close(actual.value, (free + alone - cond).value)


def test_each_sample_may_have_its_own_weight() -> None:
    cond, weak = v(1), v(2)
    actual = autoguidance.guide(cond, weak, weight=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(actual.value[0], cond.value[0])
    torch.testing.assert_close(actual.value[1], 3 * cond.value[1] - 2 * weak.value[1])


def test_unsuitable_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="wire 'uncond'"):
        autoguidance.guide(v(1), v(2), scale=2.0)
    with pytest.raises(ValueError, match="convert one first"):
        autoguidance.guide(v(1), Prediction(draw(2), "eps"))


def test_without_weight_the_workflow_draws_the_picture_of_classifier_free_guidance() -> None:
    workflow = load_workflow(FOLDER / "text_to_image.yaml", plugins=PLUGINS)
    plain = load_workflow(WORKFLOWS / "text_to_image.yaml").run(seed=0, steps=2, scale=4.0)["image"]
    torch.testing.assert_close(workflow.run(steps=2, weight=1.0, scale=4.0)["image"], plain, rtol=1e-5, atol=1e-5)
    guided = workflow.run(steps=2, weight=2.0, batch=2)["image"]
    alone = workflow.run(steps=2, weight=2.0, seed=1)["image"]
    torch.testing.assert_close(guided[1:], alone, rtol=1e-4, atol=1e-4)
    assert not torch.equal(guided[:1], workflow.run(steps=2, weight=1.0)["image"])


@pytest.mark.slow
def test_the_workflow_exports(tmp_path: Path) -> None:
    exported = made(FOLDER / "text_to_image.yaml", tmp_path, PLUGINS, steps=3, batch=2, scale=4.0)
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "weak").symlink_to(FOLDER / "weak")
    for parameters in ({}, {"steps": 4, "batch": 3, "weight": 1.5}):
        assert difference(exported.run(**parameters), exported.engine(tmp_path / "engine", **parameters)) <= LEVEL


UNCOND = NodeCase(autoguidance.guide, inputs={"uncond": example(Prediction, 5)})


@pytest.mark.parametrize("check", conformance_cases(autoguidance, UNCOND, slow=("ONNX export",)))
def test_conforms(check: Check) -> None:
    check()
