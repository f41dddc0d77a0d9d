"""Levels of flow schedules at their ends, and levels that do not fit a flow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Prediction
from tests.nodes.sampling.closed_form import MEAN, STD, normal


@pytest.mark.parametrize(
    "build", [grids.flow, grids.flow_sd3, grids.trailing, grids.linspace], ids=lambda b: b.__name__
)
def test_the_first_level_is_pure_noise_at_any_shift(build: Any) -> None:
    for shift in np.arange(0.05, 12, 0.01):  # for some of them s / (1 + (s − 1)) is above 1
        levels = build(schedules.flow(shift=float(shift)), steps=4)
        assert float(levels.ratio[0]) == math.inf
        assert float(levels.t[0]) == 1000


@pytest.mark.parametrize("steps", [7, 30, 50, 80, 501, 600, 1000])
def test_leading_steps_are_equally_long_whether_or_not_they_divide_the_timesteps(steps: int) -> None:
    times = np.linspace(1000, 0, steps + 1)[:-1]
    np.testing.assert_allclose(grids.leading(schedules.flow(), steps=steps).t[:-1].numpy(), times, rtol=1e-6)
    for build in (samplers.ddim, samplers.euler, samplers.dpmpp_2m):
        sampler = build(schedules.flow(), steps=steps, spacing="leading")
        np.testing.assert_allclose(sampler.scheduler.sigma.numpy(), times / 1000, rtol=1e-6, err_msg=build.__name__)


def test_the_error_of_leading_falls_with_any_number_of_steps() -> None:
    """The exact flow of one Gaussian, from σ = 1."""
    schedule, x = schedules.flow(shift=3), normal(2, 1, 4, 4)
    errors = []
    for steps in (40, 60, 110, 230, 501):
        sampler, y = samplers.ddim(schedule, steps=steps), x
        state = sampler.state
        for t in sampler.steps.split(1):
            alpha, sigma = schedule.along(y, t)
            x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (y - alpha * MEAN)
            y, state = step(sampler.scheduler, y, Prediction(x0, "x0"), state, t)
        errors.append(float((y - MEAN - STD * x).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


@pytest.mark.parametrize("setting", ["sigma_min", "terminal"])
def test_a_last_sigma_of_0_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}: expected a number above 0 and below 1; found float 0"):
        grids.flow(schedules.flow(), steps=4, **{setting: 0.0})


def test_a_list_of_timesteps_that_ends_at_0_is_a_list_of_sigmas_that_ends_at_0() -> None:
    schedule = schedules.flow()
    by_times = grids.timesteps(schedule, timesteps=[1000, 500, 250, 0])
    by_sigmas = grids.sigmas(schedule, sigmas=[1, 0.5, 0.25, 0])
    np.testing.assert_array_equal(by_times.ratio.numpy(), by_sigmas.ratio.numpy())
    np.testing.assert_array_equal(by_times.t.numpy(), by_sigmas.t.numpy())


def test_align_your_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Align Your Steps.* variance-preserving.* use levels\.flow"):
        grids.ays(schedules.flow())


@pytest.mark.parametrize("churn", [0.0, 3.0, 40.0])
def test_the_step_from_pure_noise_ends_where_the_churned_sampler_starts(churn: float) -> None:
    sampler = samplers.edm(schedules.flow(), steps=12, churn=churn).scheduler
    x0, eps = (float(value) for value in sampler.matrix[0, 0, 1:3])
    assert (x0, eps) == (float(sampler.alpha[1]), float(sampler.sigma[1]))


def test_levels_are_reversed_without_the_first() -> None:
    schedule = schedules.flow()
    levels = grids.flow(schedule, steps=5)
    with pytest.raises(ValueError, match=r"no way back: leave the first one out, with levels\.split"):
        grids.reverse(levels, schedule)
    rising = grids.reverse(grids.split(levels, at=1).after, schedule)
    np.testing.assert_allclose((rising.ratio / (1 + rising.ratio)).numpy(), [0.001, 0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    assert samplers.heun_flow(schedule, rising).scheduler.alpha.min() > 0


def test_levels_of_a_flow_that_was_trained_from_0_have_noise() -> None:
    schedule = schedules.trained(schedules.flow(), first=0)
    assert (schedule.trained_from, schedule.known) == (0, (1, 1000))
    assert schedules.trained(schedules.flow(), first=0.5).known == (0.5, 1000)
    for build in (samplers.euler, samplers.heun, samplers.dpmpp_2m):
        assert float(build(schedule, steps=5).steps.min()) >= 1


GRIDS = (grids.leading, grids.trailing, grids.linspace, grids.simple, grids.sgm_uniform, grids.beta)


@pytest.mark.parametrize("build", [*GRIDS, samplers.ddim, samplers.lcm, samplers.euler], ids=lambda b: b.__name__)
@pytest.mark.parametrize("shift", [0.4, 3.0])
def test_levels_of_a_shifted_flow_stay_in_its_trained_range(build: Any, shift: float) -> None:
    schedule = schedules.trained(schedules.flow(shift=shift), first=200, last=800)
    visited = build(schedule, steps=10)
    t = visited.t[:-1] if build in GRIDS else visited.steps
    assert float(t[0]) == pytest.approx(800, abs=2)
    assert 200 <= float(t.min()) < float(t.max()) <= 800


@pytest.mark.parametrize("first", [None, 0.0])
def test_the_ends_of_a_whole_schedule_stay_where_the_shift_moves_them(first: float | None) -> None:
    schedule = schedules.flow(shift=3.0)
    trained = schedules.trained(schedule, first=first)
    for build in (grids.simple, grids.sgm_uniform, grids.linspace):
        assert build(trained, steps=9).t.tolist() == build(schedule, steps=9).t.tolist()


def test_levels_that_fall_together_are_an_error() -> None:
    with pytest.raises(ValueError, match="the σ/α of levels fall, or rise, from one to the next"):
        samplers.ddim(schedules.flow(shift=1e9), steps=5)


def test_runge_kutta_of_a_flow_has_a_step_before_it() -> None:
    with pytest.raises(ValueError, match="use at least 4 steps, or 5 from pure noise"):
        samplers.pndm(schedules.flow(), steps=4, warmup="runge_kutta")
    assert len(samplers.pndm(schedules.flow(), steps=5, warmup="runge_kutta").steps) == 14


@pytest.mark.parametrize("build", [samplers.lcm, samplers.tcd], ids=["lcm", "tcd"])
def test_a_landing_above_0_draws_no_noise(build: Any) -> None:
    for steps in (1, 3):
        sampler = build(schedules.flow(), steps=steps, final="first").scheduler
        assert float(sampler.matrix[-1, 0, 3]) == 0
        assert sampler.reads_noise == (steps > 1)
