"""The context of a step: levels of the sampler's row, conversions and errors."""

from __future__ import annotations

import pytest
import torch

from guidegraph.nodes.guidance.step_context import StepContext, context
from guidegraph.nodes.sampling import scheduler as schedulers
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Prediction, SchedulerState
from tests.nodes.sampling.closed_form import network, scaled_linear


def context_at(
    row: int, steps: int = 5, dtype: torch.dtype = torch.float32, t: torch.Tensor | None = None
) -> StepContext:
    sampler = schedulers.ddim(scaled_linear(), steps=steps)
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(row), dtype=torch.float64).to(dtype)
    state = SchedulerState(torch.tensor([row]), sampler.state.slots)
    return context(sampler.scheduler, x, state, sampler.steps[row].reshape(1) if t is None else t)


def test_the_levels_are_those_of_the_samplers_row() -> None:
    sampler = schedulers.ddim(scaled_linear(), steps=5)
    for row in range(5):
        step_context = context_at(row, dtype=torch.float64)
        assert step_context.alpha.tolist() == [sampler.scheduler.alpha[row].item()]
        assert step_context.sigma.tolist() == [sampler.scheduler.sigma[row].item()]
        assert (step_context.step.tolist(), step_context.steps.tolist()) == ([row], [5])
        assert step_context.step.dtype == step_context.steps.dtype == torch.int64


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_conversions_agree_with_the_closed_form_and_invert(kind: str) -> None:
    step_context = context_at(2, dtype=torch.float64)
    prediction = network(step_context.x, step_context.alpha, step_context.sigma, kind)
    eps, x0 = (network(step_context.x, step_context.alpha, step_context.sigma, other).value for other in ("eps", "x0"))
    torch.testing.assert_close(step_context.eps(prediction), eps)
    torch.testing.assert_close(step_context.x0(prediction), x0)
    torch.testing.assert_close(step_context.v(prediction), step_context.alpha * eps - step_context.sigma * x0)
    torch.testing.assert_close(step_context.score(prediction), -eps / step_context.sigma)
    back = step_context.convert(Prediction(step_context.x0(prediction), "x0"), prediction.kind)
    assert back.kind == kind
    torch.testing.assert_close(back.value, prediction.value)


def test_a_changed_x0_converted_to_v_moves_the_sampler_the_same() -> None:
    sampler = schedulers.ddim(scaled_linear(), steps=4)
    step_context = context(sampler.scheduler, torch.ones(1, 4, 2, 2), sampler.state, sampler.steps[:1])
    changed = Prediction(torch.full_like(step_context.x, 0.25), "x0")
    moved = step(sampler.scheduler, step_context.x, step_context.convert(changed, "v"), sampler.state, step_context.t).x
    straight = step(sampler.scheduler, step_context.x, changed, sampler.state, step_context.t).x
    torch.testing.assert_close(moved, straight)


def test_half_precision_computes_in_float32_and_keeps_the_variance() -> None:
    step_context = context_at(1, dtype=torch.bfloat16)
    prediction = Prediction(torch.ones(3, 4, 2, 2, dtype=torch.bfloat16), "v", torch.zeros(3, 4, 2, 2))
    converted = step_context.convert(prediction, "x0")
    assert converted.value.dtype == torch.float32
    assert converted.variance is prediction.variance
    assert step_context.convert(prediction, "v") is prediction


def test_mismatched_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="the prediction and x"):
        context_at(0).x0(Prediction(torch.zeros(3, 4, 2, 3), "eps"))
    with pytest.raises(ValueError, match="t has shape"):
        context_at(0, t=torch.zeros(2))
    assert context_at(0, t=torch.zeros(3)).t.shape == (3,)
