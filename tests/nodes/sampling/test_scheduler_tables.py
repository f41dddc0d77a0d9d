"""The levels that a sampler visits, and the rows of its table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from guidegraph.graph.node import SPEC_ATTRIBUTE
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.levels import timesteps
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import add_noise, table
from tests.nodes.sampling.closed_form import normal, sample, scaled_linear

ALL: dict[str, Callable[..., Sampler]] = {
    name: value for name, value in vars(samplers).items() if hasattr(value, SPEC_ATTRIBUTE)
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sigmas", ["schedule", "karras", "exponential"])
def test_every_table_has_one_shape_and_starts_at_row_0(name: str, sigmas: str) -> None:
    sampler = ALL[name](scaled_linear(), steps=7, sigmas=sigmas)
    rows = len(sampler.steps)
    assert sampler.scheduler.matrix.shape == (rows, 5, 8)
    assert sampler.scheduler.log_variance.shape == (rows, 2)
    assert sampler.scheduler.matrix.dtype == torch.float64
    assert sampler.steps.dtype == torch.float32
    assert sampler.state.index.tolist() == [0]
    assert torch.equal(sampler.steps.double(), sampler.scheduler.t)


@pytest.mark.parametrize("name", ALL)
def test_a_rows_alpha_and_sigma_are_the_schedules_at_its_time(name: str) -> None:
    sampler = ALL[name](scaled_linear(), steps=9, sigmas="karras")
    alpha, sigma = scaled_linear().alpha_sigma(sampler.steps.double())
    torch.testing.assert_close(sampler.scheduler.alpha, alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(sampler.scheduler.sigma, sigma, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("lcm", 25),
        ("tcd", 25),
        ("dpm2_ancestral", 49),
        ("ddim", 25),
        ("heun", 49),
        ("dpm2", 49),
        ("edm", 49),
        ("pndm", 26),
        ("unipc", 25),
        ("dpmpp_sde", 49),
    ],
)
def test_a_row_is_a_model_call(name: str, rows: int) -> None:
    assert len(ALL[name](scaled_linear(), steps=25).steps) == rows


def test_distilled_samplers_visit_timesteps_of_the_distillation() -> None:
    for node, final in ((samplers.lcm, 0.0), (samplers.tcd, 1 - scaled_linear().alphas_bar[0].item())):
        sampler = node(scaled_linear(), steps=4)
        assert sampler.steps.tolist() == [999, 759, 499, 259]
        assert node(scaled_linear(), steps=4, original_steps=1000).steps.tolist() == [999, 749, 499, 249]
        assert node(scaled_linear(), steps=4, strength=0.5).steps.tolist() == [499, 259]
        lands_at_x0 = (1 - sampler.scheduler.matrix[-1, 0, 1] ** 2).item()
        assert lands_at_x0 == pytest.approx(final, abs=1e-6)
    with pytest.raises(ValueError, match="8 steps are more than the 4 that the model was distilled at"):
        samplers.lcm(scaled_linear(), steps=8, original_steps=4)


def test_a_start_in_the_middle_keeps_the_pairs_of_the_full_run() -> None:
    """dpmpp_2s has the pairs of the full run; 12 of 20 steps do not count as few."""
    full, part = (samplers.dpmpp_2s(scaled_linear(), steps=10, strength=s) for s in (1.0, 0.7))
    torch.testing.assert_close(part.scheduler.matrix[1:], full.scheduler.matrix[4:])
    full, part = (samplers.dpmpp_2m(scaled_linear(), steps=20, strength=s, final="first") for s in (1.0, 0.6))
    torch.testing.assert_close(part.scheduler.matrix[1:], full.scheduler.matrix[9:])


@pytest.mark.parametrize(
    "name", ["dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "lcm", "tcd", "dpmpp_2s"]
)
def test_samplers_that_cannot_go_from_the_data_to_the_noise_raise(name: str) -> None:
    schedule = scaled_linear()
    with pytest.raises(ValueError, match="from the data to the noise, which this solver cannot"):
        ALL[name](schedule, timesteps(schedule, timesteps=[0, 200, 400, 600], final="listed"))


def test_heun_of_dpmpp_2m_goes_from_the_data_to_the_noise_and_back() -> None:
    schedule = scaled_linear()
    forward = timesteps(schedule, timesteps=list(range(20, 820, 20)), final="listed")
    backward = timesteps(schedule, timesteps=list(range(800, 0, -20)), final="listed")
    x = normal(1, 64)
    noisy = sample(samplers.dpmpp_2m(schedule, forward, solver_type="heun"), x)
    restored = sample(samplers.dpmpp_2m(schedule, backward, solver_type="heun"), noisy)
    torch.testing.assert_close(restored, x, atol=0.02, rtol=0)


def test_threshold_max_is_passed_to_the_step() -> None:
    scheduler = samplers.dpmpp_2m(scaled_linear(), steps=4, threshold=0.9, threshold_max=1.5).scheduler
    assert (scheduler.threshold, scheduler.threshold_max) == (0.9, 1.5)


def test_spacings_are_those_of_lin_et_al() -> None:
    schedule = scaled_linear()
    steps = {
        s: samplers.ddim(schedule, steps=10, spacing=s).steps.tolist() for s in ("leading", "trailing", "linspace")
    }  # type: ignore[arg-type]
    assert steps["leading"] == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert steps["trailing"] == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert steps["linspace"] == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert samplers.ddim(schedule, steps=3, offset=1).steps.tolist() == [667, 334, 1]
    assert samplers.euler(schedule, steps=5).steps.tolist() == [999, 749.25, 499.5, 249.75, 0]
    assert samplers.dpmpp_2m(schedule, steps=3).steps.tolist() == [999, 666, 333]


def test_karras_levels_span_the_schedule() -> None:
    schedule = scaled_linear()
    scheduler = samplers.euler(schedule, steps=10, sigmas="karras").scheduler
    ratio = (scheduler.sigma / scheduler.alpha).numpy()
    high, low = ((1 - schedule.alphas_bar) / schedule.alphas_bar).sqrt()[[-1, 0]].tolist()
    expected = (high ** (1 / 7) + np.linspace(0, 1, 10) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(ratio, expected, rtol=2e-6)
    assert scheduler.t[[0, -1]].tolist() == [999, 0]


def test_exponential_levels_have_constant_ratios() -> None:
    scheduler = samplers.euler(scaled_linear(), steps=10, sigmas="exponential").scheduler
    ratio = scheduler.sigma / scheduler.alpha
    torch.testing.assert_close(ratio[1:] / ratio[:-1], (ratio[1] / ratio[0]).expand(9), rtol=1e-5, atol=0)


def test_posterior_of_the_linear_schedule_at_500() -> None:
    scheduler = samplers.ddpm(schedules.linear()).scheduler
    row = scheduler.matrix[999 - 500, 0]
    assert scheduler.t[999 - 500].item() == 500
    assert row[0].item() == pytest.approx(0.9941044, abs=5e-8)
    assert row[1].item() == pytest.approx(0.00305806, abs=5e-9)
    assert row[3].item() ** 2 == pytest.approx(0.01005134, abs=5e-9)
    assert scheduler.score_gain[999 - 500].item() == pytest.approx(0.01005134, abs=5e-9)


def test_a_step_of_length_zero_changes_nothing_with_a_learned_variance_either() -> None:
    learned, fixed = (
        samplers.ddpm(scaled_linear(), steps=5, final="first", variance=variance).scheduler
        for variance in ("learned", "fixed_small")
    )
    torch.testing.assert_close(learned.matrix[-1], fixed.matrix[-1])
    assert learned.score_gain[-1].item() == 0


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned"])
def test_ddpm_draws_no_noise_at_its_last_row(variance: Any) -> None:
    scheduler = samplers.ddpm(schedules.linear(), steps=20, variance=variance).scheduler
    gains = scheduler.matrix[:, 0, 3]
    assert gains[-1].item() == 0
    assert (gains[:-1] > 0).all()


def test_learned_variance_lies_between_posterior_and_beta_and_is_clipped_at_the_end() -> None:
    schedule = schedules.linear()
    learned = samplers.ddpm(schedule, variance="learned").scheduler.log_variance
    small = samplers.ddpm(schedule).scheduler.score_gain
    torch.testing.assert_close(learned[:-1, 0], small[:-1].log())
    assert learned[-1, 0].item() == pytest.approx(small[-2].log().item())
    torch.testing.assert_close(
        learned[:, 1], torch.linspace(1e-4, 0.02, 1000).flip(0).double().log(), atol=1e-6, rtol=0
    )


def test_ddim_is_euler_and_ancestral_euler_is_ddim_with_noise_is_ddpm() -> None:
    schedule, grid = scaled_linear(), {"steps": 10, "spacing": "trailing"}
    torch.testing.assert_close(
        samplers.ddim(schedule, **grid).scheduler.matrix,
        samplers.euler(schedule, **grid).scheduler.matrix,  # type: ignore[arg-type]
    )
    noisy = samplers.ddim(schedule, eta=1.0, **grid)  # type: ignore[arg-type]
    ancestral = samplers.euler_ancestral(schedule, **grid)  # type: ignore[arg-type]
    torch.testing.assert_close(noisy.scheduler.matrix, ancestral.scheduler.matrix, atol=1e-12, rtol=1e-12)
    x, noises = normal(2, 3), [normal(2, 3, seed=i) for i in range(10)]
    posterior = samplers.ddpm(schedule, **grid)  # type: ignore[arg-type]
    torch.testing.assert_close(sample(noisy, x, noises), sample(posterior, x, noises), atol=1e-10, rtol=1e-10)


def test_final_first_ends_at_the_first_alpha_bar() -> None:
    schedule = scaled_linear()
    row = samplers.ddim(schedule, steps=10, offset=1, final="first").scheduler.matrix[-1, 0]
    torch.testing.assert_close(row[1] ** 2, schedule.alphas_bar[0])
    torch.testing.assert_close(row[2] ** 2, 1 - schedule.alphas_bar[0])


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("unipc", "lcm")])  # they correct, or add noise
def test_a_last_step_of_length_zero_changes_nothing(name: str) -> None:
    sampler = ALL[name](scaled_linear(), steps=17, final="first", sigmas="karras")
    noises = [torch.zeros(1, 5, dtype=torch.float64)] * len(sampler.steps)
    final = sample(sampler, normal(1, 5), noises)
    last = 2 if name in ("heun", "dpm2", "edm") else 1
    before = sample(sampler, normal(1, 5), noises, rows=len(sampler.steps) - last)
    torch.testing.assert_close(final, before)


def test_strength_keeps_the_last_part_of_the_steps() -> None:
    schedule = scaled_linear()
    full = samplers.ddim(schedule, steps=10)
    part = samplers.ddim(schedule, steps=10, strength=0.3)
    assert part.steps.tolist() == full.steps[-3:].tolist()
    x0, noise = normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1)
    torch.testing.assert_close(add_noise(part.scheduler, x0, noise), schedule.add_noise(x0, noise, part.steps[:1]))
    assert len(samplers.ddim(schedule, steps=10, strength=0.01).steps) == 1
    assert len(samplers.ddim(schedule, steps=100, strength=0.29).steps) == 29


@pytest.mark.parametrize(
    "name", ["ddpm", "ddim", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde"]
)
def test_samplers_that_can_start_at_zero_terminal_snr(name: str) -> None:
    schedule = schedules.zero_terminal_snr(scaled_linear())
    sampler = ALL[name](schedule, steps=400, spacing="trailing")
    assert sampler.scheduler.zero_snr
    noises = [normal(1, 4000, seed=i) for i in range(400)]
    x = sample(sampler, normal(1, 4000, seed=400), noises, kind="v", schedule=schedule)
    assert x.mean().item() == pytest.approx(0.2, abs=0.03)
    assert x.std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "name",
    [
        *("heun", "dpm2", "dpm2_ancestral", "lms", "pndm", "unipc", "deis", "edm"),
        *("dpmpp_2s", "dpmpp_2s_ancestral", "dpmpp_sde"),
    ],
)
def test_other_samplers_start_with_signal_and_raise_without(name: str) -> None:
    schedule = schedules.zero_terminal_snr(scaled_linear())
    start = ALL[name](schedule, steps=12, spacing="trailing", sigmas="schedule").scheduler
    assert 0 < start.sigma[0].item() / start.alpha[0].item() <= 20
    with pytest.raises(ValueError, match=rf"{name} works in x/α.*zero terminal SNR"):
        ALL[name](schedule, timesteps(schedule, timesteps=[999, 800, 600, 400, 200]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: samplers.ddim(s, steps=1001), "1001 steps do not fit into the schedule's 1000 timesteps"),
        (lambda s: samplers.ddim(s, steps=10, offset=100), "offset 100 moves the first timestep to 1000"),
        (lambda s: samplers.pndm(s, steps=3, warmup="runge_kutta"), "at least 4 steps"),
    ],
)
def test_invalid_grids_are_refused(build: Callable[[Any], Sampler], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(scaled_linear())


def test_the_table_names_the_coefficients_that_are_not_zero_everywhere() -> None:
    scheduler = samplers.dpmpp_2m(scaled_linear(), steps=4).scheduler
    columns, levels = table(scheduler), ("t", "alpha", "sigma", "sigma/alpha")
    assert list(columns) == ["row", *levels, "score_gain", "x.x", "x.x0", "x.s1", "s1.x0"]
    assert columns["s1.x0"][1] == 1.0
    assert (columns["x.x"][-1], columns["x.x0"][-1]) == (0.0, 1.0)
    assert columns["x.x0"] == tuple(scheduler.matrix[:, 0, 1].tolist())


@pytest.mark.parametrize(
    ("name", "fits", "refused", "why"),
    [
        ("euler", 0, 0.5, "draws no noise, so eta is 0"),
        ("dpmpp_2m", 0, 1, "draws no noise, so eta is 0"),
        ("ddpm", 1, 0, "ancestral sampling, so eta is 1"),
        ("ddim", 0.5, 1.5, "less than or equal to 1"),
    ],
)
def test_every_sampler_accepts_its_own_eta_and_refuses_others(name: str, fits: float, refused: float, why: str) -> None:
    eta = getattr(ALL[name], SPEC_ATTRIBUTE).settings["eta"]
    assert eta.literal(fits) == fits
    with pytest.raises(ValueError, match=why):
        eta.literal(refused)
