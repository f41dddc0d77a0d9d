"""Tables of solvers compared with independent loops in s = σ/α, by the formulas of the papers and k-diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from guidegraph_runtime.samplers import ddim, dpm_solver, ode_solvers, pseudo_numerical
from guidegraph_runtime.tables.noise_levels import NoiseSchedule
from guidegraph_runtime.tables.rows import NOTHING, Array, K, Level, Row
from tests.nodes.sampling import k_diffusion
from tests.nodes.sampling.closed_form import MEAN, STD, scaled_linear

NOISE = NoiseSchedule.of(scaled_linear().alphas_bar.double().numpy())
LANDING = Level(-1.0, 1.0, 0.0)
GRID = (999, 900, 750, 610, 500, 380, 270, 160, 70, 12)
LEVELS = [*(NOISE.at(t) for t in GRID), LANDING]


def denoise(y: Array, s: float) -> Array:
    """E[x0 | x0 + s·ε = y] of the data N(0.2, 0.5²)."""
    return (STD**2 * y + s**2 * MEAN) / (STD**2 + s**2)


def normal(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(count)


RATIOS = [level.ratio for level in LEVELS]
START = normal(64, 99) / LEVELS[0].alpha  # what k-diffusion starts from where `run` starts from normal(64, 99)


def run(rows: Sequence[Row], x: Array, noises: Sequence[Array]) -> Array:
    """The loop of scheduler.step with the closed-form denoiser."""
    slots = [np.zeros_like(x)] * K
    for row, noise in zip(rows, noises, strict=False):
        x0 = denoise(x / row.level.alpha, row.level.ratio)
        inputs = np.stack([x, x0, (x - row.level.alpha * x0) / row.level.sigma, noise, *slots])
        x, *slots = [output @ inputs for output in (row.x, *row.slots, *[NOTHING] * (K - len(row.slots)))]
    return x


def of_rows(rows: Sequence[Row], last: bool) -> Iterator[Array]:
    """The noises of a run of `rows` that k-diffusion draws: one a step, which our step's last row reads."""
    noises = [normal(64, seed) for seed in range(len(rows))]
    return iter(noises[1::2] if last else noises)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_dpm2_ancestral_is_a_midpoint_step_and_noise(eta: float) -> None:
    rows = ode_solvers.dpm2_ancestral(LEVELS, NOISE, eta=eta)
    assert len(rows) == 2 * len(GRID) - 1
    noises = [normal(64, seed) for seed in range(len(rows))]
    expected = k_diffusion.dpm_2_ancestral(denoise, START, RATIOS, of_rows(rows, last=True), eta)
    np.testing.assert_allclose(run(rows, normal(64, 99), noises), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_dpmpp_2s_ancestral_is_an_exponential_midpoint_step_and_noise(eta: float) -> None:
    rows = dpm_solver.dpmpp_2s_ancestral(LEVELS, NOISE, eta=eta)
    noises = [normal(64, seed) for seed in range(len(rows))]
    expected = k_diffusion.dpmpp_2s_ancestral(denoise, START, RATIOS, of_rows(rows, last=True), eta)
    np.testing.assert_allclose(run(rows, normal(64, 99), noises), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [1.0, 0.3, 0.0])
def test_dpmpp_3m_sde_integrates_k_diffusions_quadratic_through_three_calls(eta: float) -> None:
    rows = dpm_solver.dpmpp_3m_sde(LEVELS, eta=eta)
    noises = [normal(64, seed) for seed in range(len(rows))]
    expected = k_diffusion.multistep_sde(denoise, START, RATIOS, of_rows(LEVELS, last=False), eta, order=3)
    np.testing.assert_allclose(run(rows, normal(64, 99), noises), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("eta", [1.0, 0.3, 0.0])
def test_dpmpp_2m_integrates_the_line_through_two_calls_or_takes_its_middle(eta: float, solver_type: Any) -> None:
    rows = dpm_solver.dpmpp_2m(LEVELS, solver_type=solver_type, eta=eta)
    noises = [normal(64, seed) for seed in range(len(rows))]
    expected = k_diffusion.multistep_sde(denoise, START, RATIOS, of_rows(LEVELS, last=False), eta, 2, solver_type)
    np.testing.assert_allclose(run(rows, normal(64, 99), noises), expected, rtol=0, atol=1e-9)


def karras(count: int) -> list[Level]:
    high, low = NOISE.at(999).ratio ** (1 / 7), NOISE.at(0).ratio ** (1 / 7)
    return [NOISE.at_ratio(float(s**7)) for s in np.linspace(high, low, count + 1)]


def error(solver: Callable[[list[Level]], list[Row]], steps: int) -> float:
    """The largest error of the probability flow from σ_max to σ_min in Karras' steps."""
    levels = karras(steps)
    x, a, b = normal(64, 99), levels[0], levels[-1]
    rows = solver(levels)
    exact = b.alpha * MEAN + (x - a.alpha * MEAN) * math.sqrt(
        (b.alpha**2 * STD**2 + b.sigma**2) / (a.alpha**2 * STD**2 + a.sigma**2)
    )
    return float(np.abs(run(rows, x, [np.zeros_like(x)] * len(rows)) - exact).max())


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (lambda levels: dpm_solver.dpmpp_2m(levels, solver_type="heun"), 2),
        (lambda levels: dpm_solver.dpmpp_3m_sde(levels, eta=0), 2),  # for want of half of the curvature
        (lambda levels: dpm_solver.dpmpp_2s(levels, solver_type="heun"), 2),
        (lambda levels: dpm_solver.dpmpp_2s_ancestral(levels, NOISE, eta=0), 2),
        (lambda levels: ode_solvers.dpm2_ancestral(levels, NOISE, eta=0), 2),
    ],
    ids=["dpmpp_2m heun", "dpmpp_3m", "dpmpp_2s heun", "dpmpp_2s_ancestral", "dpm2_ancestral"],
)
def test_order_of_convergence_without_noise(solver: Callable[[list[Level]], list[Row]], order: int) -> None:
    assert math.log2(error(solver, 80) / error(solver, 160)) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(
    "rows",
    [
        dpm_solver.dpmpp_2m(LEVELS, solver_type="heun", eta=1.0),
        dpm_solver.dpmpp_3m_sde(LEVELS),
        ode_solvers.dpm2_ancestral(LEVELS, NOISE),
        dpm_solver.dpmpp_2s_ancestral(LEVELS, NOISE),
        ddim.lcm(LEVELS, NOISE),
    ],
    ids=["dpmpp_2m_sde", "dpmpp_3m_sde", "dpm2_ancestral", "dpmpp_2s_ancestral", "lcm"],
)
def test_a_rows_score_gain_is_the_variance_of_its_noise_and_the_last_draws_none(rows: Sequence[Row]) -> None:
    assert [row.score_gain for row in rows] == pytest.approx([row.x[3] ** 2 for row in rows])
    assert rows[-1].x[3] == 0
    assert max(row.x[3] for row in rows) > 0


@pytest.mark.parametrize(
    "solver",
    [dpm_solver.dpmpp_2m, dpm_solver.dpmpp_3m_sde, lambda levels: ddim.lcm(levels, NOISE)],
    ids=["dpmpp_2m", "dpmpp_3m_sde", "lcm"],
)
def test_solvers_in_x0_start_at_zero_terminal_snr(solver: Callable[..., list[Row]]) -> None:
    levels = [Level(999.0, 0.0, 1.0), *LEVELS[2:]]
    for row in solver(levels):
        assert all(np.isfinite(output).all() for output in (row.x, *row.slots))


def test_lcm_is_the_consistency_function_then_fresh_noise() -> None:
    levels = [NOISE.at(999), NOISE.at(499), LANDING]
    x, z = normal(64, 1), normal(64, 2)
    a, b = levels[0], levels[1]

    def f(x: Array, level: Level) -> Array:
        tau = 10 * level.t
        skip, out = 0.25 / (tau**2 + 0.25), tau / math.sqrt(tau**2 + 0.25)
        return skip * x + out * denoise(x / level.alpha, level.ratio)

    expected = f(b.alpha * f(x, a) + b.sigma * z, b)
    np.testing.assert_allclose(run(ddim.lcm(levels, NOISE), x, [z, z]), expected, rtol=0, atol=1e-12)


def test_lcm_at_time_0_is_the_sample_itself() -> None:
    levels = [NOISE.at(0), LANDING]
    np.testing.assert_allclose(run(ddim.lcm(levels, NOISE), normal(64, 1), [normal(64, 2)]), normal(64, 1), atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_tcd_is_a_ddim_step_below_the_next_level_and_noise_up_to_it(gamma: float) -> None:
    levels = [NOISE.at(999), NOISE.at(749), NOISE.at(499), NOISE.at(0)]
    x, noises = normal(64, 1), [normal(64, seed) for seed in (2, 3, 4)]
    expected = x
    for a, b, z in zip(levels[:-1], levels[1:], noises, strict=True):
        s = NOISE.at(math.floor((1 - gamma) * b.t))
        x0 = denoise(expected / a.alpha, a.ratio)
        eps = (expected - a.alpha * x0) / a.sigma
        ratio_of_alphas = b.alpha**2 / s.alpha**2
        expected = math.sqrt(ratio_of_alphas) * (s.alpha * x0 + s.sigma * eps) + math.sqrt(1 - ratio_of_alphas) * z
    np.testing.assert_allclose(run(ddim.tcd(levels, NOISE, eta=gamma), x, noises), expected, rtol=0, atol=1e-12)


def test_distilled_timesteps_are_those_of_the_distillation() -> None:
    assert ddim.distillation_timesteps(1000, 50, 4) == [999, 759, 499, 259]
    assert ddim.distillation_timesteps(1000, 50, 1) == [999]
    assert ddim.distillation_timesteps(1000, 50, 50) == list(range(999, 0, -20))


@pytest.mark.parametrize(
    ("original", "steps", "message"),
    [(1001, 4, "original_steps 1001 are more than the schedule's 1000"), (50, 51, "51 steps are more than the 50")],
)
def test_more_steps_than_the_distillation_had_raise(original: int, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ddim.distillation_timesteps(1000, original, steps)


def test_tcd_without_noise_is_ddim() -> None:
    rows = ddim.tcd(LEVELS, NOISE, eta=0)
    for row, expected in zip(rows, ddim.ddim(LEVELS), strict=True):
        np.testing.assert_allclose(row.x, expected.x, rtol=0, atol=1e-12)


def orders(rows: Sequence[Row]) -> list[int]:
    """The number of calls that each row combines: x̂0 or ε of this call, and the kept ones."""
    return [1 + sum(bool(row.x[4 + slot]) for slot in range(2)) for row in rows]


def coarse(steps: int) -> list[Level]:
    """Steps between levels of the schedule; the last does not end at σ = 0."""
    return [NOISE.at(float(t)) for t in np.linspace(999, 10, steps + 1).round()]


def test_lower_order_final_lowers_the_last_steps_of_less_than_15() -> None:
    assert orders(dpm_solver.dpmpp_2m(coarse(10))) == [1, *[2] * 8, 1]
    assert orders(dpm_solver.dpmpp_2m(coarse(10), lower_order_final=False)) == [1, *[2] * 9]
    assert orders(dpm_solver.dpmpp_2m(coarse(15))) == [1, *[2] * 14]
    assert orders(dpm_solver.dpmpp_2m(coarse(15), euler_at_final=True)) == [1, *[2] * 13, 1]
    assert orders(ode_solvers.deis(coarse(10))) == [1, 2, *[3] * 6, 2, 1]
    assert orders(ode_solvers.deis(coarse(10), lower_order_final=False)) == [1, 2, *[3] * 8]


def test_lower_order_final_counts_skipped_steps() -> None:
    assert orders(dpm_solver.dpmpp_2m(coarse(10), skipped=5)) == [1, *[2] * 9]
    assert orders(ode_solvers.deis(coarse(10), skipped=5)) == [1, 2, *[3] * 8]


def test_unipc_keeps_its_order_to_the_end_without_lower_order_final() -> None:
    """The last row's weights of the kept x̂0s: s₁ and s₂ count in its prediction too."""
    lower, same = (dpm_solver.unipc(coarse(10), order=3, lower_order_final=flag)[-1].x for flag in (True, False))
    assert same[6] != 0
    assert same[6] != pytest.approx(lower[6])


@pytest.mark.parametrize("solver", [ode_solvers.deis, dpm_solver.dpmpp_2m])
def test_a_step_to_zero_noise_returns_x0_for_any_lower_order_final(solver: Any) -> None:
    rows = solver([*coarse(16), LANDING], lower_order_final=False)
    before = run(rows[:-1], normal(64, 99), [np.zeros(64)] * 16)
    end = run(rows, normal(64, 99), [np.zeros(64)] * 17)
    np.testing.assert_allclose(end, denoise(before / rows[-1].level.alpha, rows[-1].level.ratio), rtol=0, atol=1e-9)


def test_unipcs_step_to_zero_noise_is_finite_without_lower_order_final() -> None:
    rows = dpm_solver.unipc([*coarse(16), LANDING], order=3, lower_order_final=False)
    x0_of_the_last_call = rows[-1].x[1]
    assert np.isfinite(rows[-1].x).all()
    assert x0_of_the_last_call == pytest.approx(1)


@pytest.mark.parametrize("warmup", ["plms", "runge_kutta"])
def test_pndm_of_v_converts_the_mix_of_vs_at_the_start_of_each_step(warmup: str) -> None:
    """As diffusers' PNDM does for a model that predicts v; a loop of its own in x."""
    rows = (
        pseudo_numerical.plms(LEVELS, "v") if warmup == "plms" else pseudo_numerical.runge_kutta(LEVELS, NOISE.at, "v")
    )
    x, past = normal(64, 99), list[Array]()

    def v(x: Array, level: Level) -> Array:
        x0 = denoise(x / level.alpha, level.ratio)
        return level.alpha * (x - level.alpha * x0) / level.sigma - level.sigma * x0

    def transfer(x: Array, a: Level, b: Level, mixed: Array) -> Array:
        eps = a.alpha * mixed + a.sigma * x
        return b.alpha * (x - a.sigma * eps) / a.alpha + b.sigma * eps

    for i, (a, b) in enumerate(pairwise(LEVELS)):
        past = [v(x, a), *past]
        if warmup == "runge_kutta" and i < 3:
            middle = NOISE.at((a.t + b.t) / 2)
            second = v(transfer(x, a, middle, past[0]), middle)
            third = v(transfer(x, a, middle, second), middle)
            fourth = v(transfer(x, a, b, third), b)
            mixed = (past[0] + 2 * second + 2 * third + fourth) / 6
        elif i == 0:
            mixed = (past[0] + v(transfer(x, a, b, past[0]), b)) / 2
        else:
            weights = ([3, -1], [23, -16, 5], [55, -59, 37, -9])[min(i, 3) - 1]
            mixed = sum(w * value for w, value in zip(weights, past, strict=False)) / sum(weights)
        x = transfer(x, a, b, mixed)
    actual = run(rows, normal(64, 99), [np.zeros(64)] * len(rows))
    np.testing.assert_allclose(actual, x, rtol=0, atol=1e-8)


def test_pairs_of_dpmpp_2s_are_those_of_the_full_run() -> None:
    """A start after an odd number of steps begins with a single step, then takes the whole run's pairs."""
    full = dpm_solver.dpmpp_2s(LEVELS)
    part = dpm_solver.dpmpp_2s(LEVELS[3:], skipped=3)
    assert [bool(row.x[5]) for row in part[1:]] == [bool(row.x[5]) for row in full[4:]]
    assert not part[0].x[5]
    for row, expected in zip(part[1:], full[4:], strict=True):
        np.testing.assert_array_equal(row.x, expected.x)
