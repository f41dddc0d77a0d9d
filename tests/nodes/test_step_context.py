"""The context of a step: levels of the sampler's row, conversions, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from guidegraph.nodes import scheduler as schedulers
from guidegraph.nodes.step import step
from guidegraph.nodes.step_context import StepContext, context
from guidegraph.nodes.types import Prediction, SchedulerState
from tests.nodes.closed_form import network, scaled_linear


def at(row: int, steps: int = 5, dtype: torch.dtype = torch.float32, t: torch.Tensor | None = None) -> StepContext:
    found = schedulers.ddim(scaled_linear(), steps=steps)
    x = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(row), dtype=torch.float64).to(dtype)
    state = SchedulerState(torch.tensor([row]), found.state.slots)
    return context(found.scheduler, x, state, found.steps[row].reshape(1) if t is None else t)


def test_the_levels_are_those_of_the_samplers_row() -> None:
    found = schedulers.ddim(scaled_linear(), steps=5)
    for row in range(5):
        there = at(row, dtype=torch.float64)
        assert there.alpha.tolist() == [found.scheduler.alpha[row].item()]
        assert there.sigma.tolist() == [found.scheduler.sigma[row].item()]
        assert (there.step.tolist(), there.steps.tolist()) == ([row], [5])
        assert there.step.dtype == there.steps.dtype == torch.int64


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_conversions_agree_with_the_closed_form_and_go_back(kind: str) -> None:
    here = at(2, dtype=torch.float64)
    said = network(here.x, here.alpha, here.sigma, kind)
    eps, x0 = (network(here.x, here.alpha, here.sigma, other).value for other in ("eps", "x0"))
    torch.testing.assert_close(here.eps(said), eps)
    torch.testing.assert_close(here.x0(said), x0)
    torch.testing.assert_close(here.v(said), here.alpha * eps - here.sigma * x0)
    torch.testing.assert_close(here.score(said), -eps / here.sigma)
    back = here.convert(Prediction(here.x0(said), "x0"), said.kind)
    assert back.kind == kind
    torch.testing.assert_close(back.value, said.value)


def test_a_changed_x0_moves_the_sampler_as_it_says() -> None:
    found = schedulers.ddim(scaled_linear(), steps=4)
    here = context(found.scheduler, torch.ones(1, 4, 2, 2), found.state, found.steps[:1])
    wanted = Prediction(torch.full_like(here.x, 0.25), "x0")
    moved = step(found.scheduler, here.x, here.convert(wanted, "v"), found.state, here.t).x
    straight = step(found.scheduler, here.x, wanted, found.state, here.t).x
    torch.testing.assert_close(moved, straight)


def test_half_precision_computes_in_float32_and_keeps_the_variance() -> None:
    here = at(1, dtype=torch.bfloat16)
    said = Prediction(torch.ones(3, 4, 2, 2, dtype=torch.bfloat16), "v", torch.zeros(3, 4, 2, 2))
    found = here.convert(said, "x0")
    assert found.value.dtype == torch.float32
    assert found.variance is said.variance
    assert here.convert(said, "v") is said


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the prediction and x"):
        at(0).x0(Prediction(torch.zeros(3, 4, 2, 3), "eps"))
    with pytest.raises(ValueError, match="t has shape"):
        at(0, t=torch.zeros(2))
    assert at(0, t=torch.zeros(3)).t.shape == (3,)
