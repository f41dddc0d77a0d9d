"""The levels of timesteps that a schedule has computed before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import MOST_TIMESTEPS, Schedule, keep_level
from tests.nodes.sampling.closed_form import scaled_linear

X = torch.zeros(2, 4, 8, 8)


def expected_level(schedule: Schedule, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    alpha, sigma = schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64))
    axes = (1,) * x.ndim
    return alpha.to(x.dtype).reshape(axes), sigma.to(x.dtype).reshape(axes)


def assert_level(schedule: Schedule, x: Tensor, t: Tensor) -> None:
    for level, expected in zip(schedule.along(x, t), expected_level(schedule, x, float(t)), strict=True):
        torch.testing.assert_close(level, expected, rtol=0, atol=0)


@pytest.mark.parametrize("schedule", [scaled_linear(), schedules.flow(shift=3.0)], ids=["variance", "flow"])
def test_a_timestep_that_comes_again_has_its_level_in_the_dtype_and_rank_of_x(schedule: Schedule) -> None:
    for _ in range(2):
        for t in (torch.tensor([601.0]), torch.tensor([601]), torch.tensor([20.25])):
            for x in (X, X.double(), X[:, :, 0], X[:1]):
                assert_level(schedule, x, t)


def test_a_timestep_is_computed_once() -> None:
    schedule, calls = scaled_linear(), 0

    def compute(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return t.clone(), t.clone()

    for _ in range(3):
        keep_level(schedule, X, torch.tensor([7.0]), compute)
    assert calls == 1
    for _ in range(2):
        keep_level(schedule, X, torch.tensor([7.0, 8.0]), compute)
    assert calls == 3  # timesteps of samples are not kept


def test_a_table_or_a_level_that_was_changed_in_place_is_read_again() -> None:
    schedule, t = scaled_linear(), torch.tensor([300.0])
    alpha, _ = schedule.along(X, t)
    alpha.zero_()
    assert_level(schedule, X, t)
    schedule.alphas_bar.mul_(0.5)
    assert_level(schedule, X, t)


def test_gradients_of_timesteps_and_of_the_table_are_those_without_kept_levels() -> None:
    schedule, plain = scaled_linear(), torch.tensor([300.5])
    schedule.along(X, plain)
    t = plain.clone().requires_grad_()
    schedule.along(X, t)[0].sum().backward()
    assert t.grad is not None
    slope = float(t.grad)
    ends = [float(schedule.alpha_sigma(plain.double() + step)[0]) for step in (-0.1, 0.1)]
    assert slope == pytest.approx((ends[1] - ends[0]) / 0.2, rel=1e-3)
    _, tangent = torch.func.jvp(lambda t: schedule.along(X, t)[0].sum(), (plain,), (torch.ones(1),))
    assert float(tangent) == pytest.approx(slope, rel=1e-5)
    learned = Schedule(schedule.alphas_bar.clone().requires_grad_())
    assert learned.along(X, plain)[0].requires_grad


def test_levels_of_inference_mode_and_of_recorded_calls_serve_no_other_step() -> None:
    schedule, t = scaled_linear(), torch.tensor([300.0])
    with FakeTensorMode(allow_non_fake_inputs=True):
        schedule.along(X, t)
    with torch.inference_mode():
        schedule.along(X, t)
    x = X.clone().requires_grad_()
    (schedule.along(x, t)[0] * x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected_level(schedule, X, 300.0)[0].expand_as(x))


def test_any_number_of_timesteps_may_come() -> None:
    schedule = scaled_linear()
    for i in range(MOST_TIMESTEPS + 10):
        keep_level(schedule, X, torch.tensor([i / 5000]), lambda x, t: (t, t))
    t = torch.tensor([0.5])
    assert_level(schedule, X, t)
