"""The loops of diffusers' scheduler tests with our tables and step: sums, means and tolerances."""

from __future__ import annotations

import math
import sys
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph.nodes.sampling import levels
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.denoiser_edm import precondition
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Condition, Denoiser, Levels, Prediction, Schedule
from tests.nodes.sampling.diffusers_loops import LOOPS, Betas, Loop

SIGMA_DATA = 0.5
"""The default of diffusers' EDM schedulers."""


def schedule_of(betas: Betas) -> Schedule:
    """ᾱ as diffusers computes it, in float32: its tests' numbers have its rounding. The model knows all timesteps."""
    power = 2 if betas.scaled else 1
    roots = torch.linspace(betas.start ** (1 / power), betas.end ** (1 / power), betas.train_steps)
    return Schedule(torch.cumprod(1 - roots**power, 0).double(), 0.0, betas.train_steps - 1.0)


def schedule_of_loop(loop: Loop) -> Schedule:
    return schedules.edm() if loop.edm else schedule_of(loop.betas)


def ramp(loop: Loop, downward: bool = False) -> Tensor:
    """(4, 3, 8, 8) or (4, 3, 8): 0 … n − 1 over n, upward or downward, with the batch as the fastest axis."""
    shape = (3, 8, 4) if loop.one_dimensional else (3, 8, 8, 4)
    values = torch.arange(math.prod(shape))
    values = (values.flip(0) if downward else values).reshape(shape) / math.prod(shape)
    return values.permute(-1, *range(len(shape) - 1)).double()


def levels_of(loop: Loop, schedule: Schedule, final: Any) -> Levels | None:
    """The levels of the full run, if settings of the sampler cannot select them."""
    ratios = ((1 - schedule.alphas_bar) / schedule.alphas_bar).sqrt().numpy()
    if loop.grid == "linear sigmas":
        times = np.linspace(0, len(ratios) - 1, loop.steps)[::-1]
        interpolated = np.interp(times, np.arange(len(ratios)), ratios)
        return levels.sigmas(schedule, sigmas=interpolated[loop.skipped :].tolist(), final=final)
    ends: Any = {"sigma_max": ratios[-1].item(), "sigma_min": ratios[0].item()}
    if loop.grid == "karras":
        return levels.karras(schedule, steps=loop.steps, final=final, **ends)
    if loop.grid == "lu":
        return levels.exponential(schedule, steps=loop.steps, final=final, **ends)
    return levels.leading(schedule, steps=loop.steps, final=final) if loop.grid == "leading" else None


def sampler_of(loop: Loop) -> Sampler:
    schedule, settings = schedule_of_loop(loop), dict(loop.settings)
    node: Any = getattr(samplers, loop.sampler)
    wired = levels_of(loop, schedule, settings.get("final", "one"))
    if wired is None:
        settings |= {"steps": loop.steps, "strength": (loop.steps - loop.skipped) / loop.steps}
    else:
        settings.pop("final", None)
    sampler: Sampler = node(schedule, wired, **settings)
    return sampler


def start(loop: Loop, sampler: Sampler) -> Tensor:
    """Our variance-preserving x of diffusers' start."""
    alpha, sigma = sampler.scheduler.alpha[0], sampler.scheduler.sigma[0]
    x, noise = ramp(loop), ramp(loop, downward=True)
    if loop.in_ratio:
        bar = schedule_of(loop.betas).alphas_bar[-1]
        x = alpha * ((1 - bar) / bar).sqrt() * x
    elif loop.edm == "scaled":
        x = alpha * (sampler.scheduler.sigma[0] ** 2 / alpha**2 + 1).sqrt() * x
    elif loop.noised or loop.edm:
        x = alpha * x
    return x + sigma * noise if loop.noised else x


def noises(sampler: Sampler, shape: torch.Size) -> list[Tensor]:
    """Noise that diffusers draws from torch's generator with seed 0, in float32, at the steps that draw it."""
    generator = torch.Generator().manual_seed(0)
    draws = sampler.scheduler.matrix[:, 0, 3] != 0
    return [torch.randn(shape, generator=generator).double() if draw else torch.zeros(shape) for draw in draws]


def denoiser_of(loop: Loop) -> Denoiser:
    """The tests' model x·t/(t + 1); for an EDM model it is F, whose t is c_noise = ln(σ)/4."""

    def model(x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        t = t.double()
        if loop.edm == "unscaled":  # the tests leave out c_in = 1/√(σ² + σ_data²)
            x = x * ((8 * t).exp() + SIGMA_DATA**2).sqrt()
        return Prediction(x * t / (t + 1), loop.kind)

    return precondition(model, schedules.edm(), sigma_data=SIGMA_DATA) if loop.edm else model


def run(loop: Loop) -> Tensor:
    sampler = sampler_of(loop)
    x, state = start(loop, sampler), sampler.state
    drawn, denoiser = noises(sampler, x.shape), denoiser_of(loop)
    for t, alpha, noise in zip(sampler.steps.split(1), sampler.scheduler.alpha, drawn, strict=True):
        prediction = denoiser(x, t, Condition())
        if loop.in_ratio:  # the tests hand αy, the model's input, to the step as y; x is α times what a step is handed
            x = alpha * x
        x, state = step(sampler.scheduler, x, prediction, state, t, noise=noise)
    return x


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(loop, marks=pytest.mark.xfail(raises=AssertionError, strict=True, reason=loop.differs))
        if loop.differs
        else loop
        for loop in LOOPS
    ],
    ids=str,
)
def test_a_loop_that_diffusers_asserts(loop: Loop) -> None:
    x = run(loop).abs()
    assert float(x.mean()) == pytest.approx(loop.expected_mean, abs=loop.mean_tolerance, rel=0)
    if loop.expected_sum is not None:
        assert float(x.sum()) == pytest.approx(loop.expected_sum, abs=loop.sum_tolerance, rel=0)


def test_65_of_the_67_loops_are_the_same_and_the_tests_that_assert_them_are_87() -> None:
    """Issue 14 counts 60 of the tests: without edm, kdpm2_ancestral, lcm, tcd, the parallel schedulers and switch."""
    counted_once = [
        (loop, test)
        for loop in LOOPS
        for test in loop.tests.split(", ")
        if not test.startswith(("ddim_parallel", "ddpm_parallel", "edm", "kdpm2_ancestral", "lcm", "tcd"))
        and not test.endswith("switch")
    ]
    assert (len(LOOPS), sum(loop.count for loop in LOOPS), len(counted_once)) == (67, 87, 60)
    assert sum(bool(loop.differs) for loop, _ in counted_once) == 2


def test_ddpm_from_the_last_two_timesteps_is_diffusers_in_float64() -> None:
    """The number that its test asserts is float32's, as `differs` says of that loop."""
    diffusers = pytest.importorskip("diffusers")
    loop = next(loop for loop in LOOPS if str(loop) == "ddpm: with_noise")
    reference = diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02, variance_type="fixed_small")
    reference.alphas_cumprod = reference.alphas_cumprod.double()
    sampler = sampler_of(loop)
    x = start(loop, sampler)
    drawn = iter(noises(sampler, x.shape))
    module = sys.modules["diffusers.schedulers.scheduling_ddpm"]
    with patch.object(module, "randn_tensor", lambda *_, **__: next(drawn)):
        for t in (1, 0):
            x = reference.step(x * t / (t + 1), t, x).prev_sample
    torch.testing.assert_close(run(loop), x, atol=1e-6, rtol=0)


def run_edm_of_diffusers(loop: Loop) -> Tensor:
    """Its sample (4, 3, 8, 8) where diffusers' test of `loop` ends, with σ in float64."""
    diffusers = pytest.importorskip("diffusers")
    if loop.edm == "scaled":
        scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    else:
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(
            prediction_type="v_prediction" if loop.kind == "v" else "epsilon",
            thresholding="threshold" in loop.settings,
            dynamic_thresholding_ratio=0.87,
            sample_max_value=0.5,
            lower_order_final=False,
            final_sigmas_type="sigma_min",
        )
    scheduler.set_timesteps(loop.steps)
    sigmas = scheduler._compute_karras_sigmas(torch.linspace(0, 1, loop.steps, dtype=torch.float64))
    scheduler.sigmas = torch.cat([sigmas, sigmas.new_zeros(1) if loop.edm == "scaled" else sigmas[-1:]])
    scheduler.timesteps = sigmas.log() / 4
    x = ramp(loop)
    if loop.edm == "scaled":
        x = x * scheduler.init_noise_sigma
    times = scheduler.timesteps[loop.skipped :]
    if loop.noised:
        x = scheduler.add_noise(x, ramp(loop, downward=True), times[:1])
    for t in times:
        seen = scheduler.scale_model_input(x, t) if loop.edm == "scaled" else x
        x = scheduler.step(seen * t / (t + 1), t, x).prev_sample
    return x


@pytest.mark.parametrize("loop", [loop for loop in LOOPS if loop.edm], ids=str)
def test_a_loop_of_an_edm_model_ends_at_diffusers_sample(loop: Loop) -> None:
    """The tests allow 1e-3 of means of 1e-4 to 1e-2, so here the samples themselves are compared.

    A step's c_noise is −0.97, near the pole of the model at −1, which takes the rounding of t in float32 to 5e-6.
    """
    expected = run_edm_of_diffusers(loop).double()
    torch.testing.assert_close(run(loop), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
