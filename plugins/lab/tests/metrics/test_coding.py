"""Rate and distortion of progressive coding: closed forms on Gaussian data, Shannon's bound, and the shipped model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from guidegraph import load_workflow
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.table import Table
from guidegraph.nodes.types import Prediction, Schedule
from guidegraph_lab.metrics import coding_rate_distortion
from tests.nodes.sampling.closed_form import MEAN, STD, network, normal
from tests.paths import ROOT

SCHEDULE = schedules.cosine()


def run_coding(
    x0: Tensor, steps: int | None, kind: Any = "eps", spacing: Any = "log_snr", schedule: Schedule = SCHEDULE
) -> Table:
    """Run the loop of workflows/experiments/rate_distortion.yaml with the optimal denoiser of N(0.2, 0.5²)."""
    grid = coding_rate_distortion.coding_steps(schedule, steps=steps, spacing=spacing)
    steps_coded = []
    for i, t in enumerate(grid.split(1)):
        x = schedule.add_noise(x0, normal(*x0.shape, seed=100 + i), t)
        prediction = network(x, *schedule.along(x, t), kind)
        steps_coded.append(coding_rate_distortion.coding_step(prediction, x, x0, schedule, grid, i, clip=False))
    bits, error = (torch.stack(column) for column in zip(*steps_coded, strict=True))
    return coding_rate_distortion.rate_distortion(
        bits, error, coding_rate_distortion.coding_prior(x0, schedule, grid), grid
    )


def snr(t: Tensor) -> Tensor:
    alpha, sigma = SCHEDULE.alpha_sigma(t.double())
    return (alpha / sigma).square()


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_each_step_costs_half_the_gain_in_snr_times_the_remaining_variance(kind: str) -> None:
    """(SNR_s − SNR_t)/2 · Var(x0 | x_t) nats (Kingma et al. 2021, eq. 13), and rmse² is that variance."""
    x0 = MEAN + STD * normal(16, 1, 32, 32)
    table = run_coding(x0, 25, kind, "timesteps")
    grid = coding_rate_distortion.coding_steps(SCHEDULE, steps=25, spacing="timesteps")
    left = STD**2 / (1 + STD**2 * snr(grid))
    expected = (snr(grid)[1:] - snr(grid)[:-1]) / 2 * left[:-1] / math.log(2)
    np.testing.assert_allclose(table.numbers("bits")[:24], expected.numpy(), rtol=0.05)
    np.testing.assert_allclose(np.array(table.numbers("rmse")[:25]) ** 2, left.numpy() * 127.5**2, rtol=0.05)


def test_the_rate_approaches_shannons_bound_with_many_steps_and_exceeds_it_with_few() -> None:
    """R(D) = ½ log₂(s²/D) of N(·, s²) (Shannon 1959). A step costs more than that by half the step in log SNR."""
    x0 = MEAN + STD * normal(8, 1, 32, 32)
    fine, coarse = run_coding(x0, 170), run_coding(x0, 14)  # 169 = 13 · 13
    step = float(snr(coding_rate_distortion.coding_steps(SCHEDULE, steps=170)[-2:]).log().diff())
    rate, rmse = (np.array(fine.numbers(name)[:-1]) for name in ("rate", "rmse"))
    bound = 0.5 * np.log2(STD**2 / (rmse / 127.5) ** 2)
    assert ((rate - bound) > -0.02).all()
    assert ((rate - bound) < 0.02 + 0.6 * step * bound).all()
    assert (np.diff(rate) > 0).all()
    for row, same in zip(coarse.records()[5:14], fine.records()[65:170:13], strict=True):
        assert row["t"] == pytest.approx(same["t"], abs=1e-3)
        assert row["rate"] > same["rate"]  # type: ignore[operator]
        assert row["rmse"] == pytest.approx(same["rmse"], rel=0.05)


def test_the_total_rate_is_just_above_the_entropy_of_the_levels() -> None:
    x0 = (MEAN + STD * normal(4, 1, 32, 32)).clamp(-1, 1)
    edges = np.concatenate([[-np.inf], np.linspace(-1, 1, 256)[:-1] + 1 / 255, [np.inf]])
    p = np.diff(scipy.stats.norm.cdf(edges, MEAN, STD))
    entropy = -(p * np.log2(p)).sum()
    assert entropy < run_coding(x0, 170).numbers("rate")[-1] < 1.12 * entropy


def test_the_divergence_is_that_of_two_normals_for_both_variances() -> None:
    """Against torch.distributions, with the posterior of Ho et al. 2020, eq. 6 and 7, from β_t itself."""
    schedule = schedules.linear()
    x0, noise, guess = (normal(2, 1, 4, 4, seed=i) for i in range(3))
    grid = torch.tensor([400.0, 399.0])
    alpha_bar, previous = schedule.alphas_bar[400], schedule.alphas_bar[399]
    beta = 1 - alpha_bar / previous
    x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    tilde = (1 - previous) / (1 - alpha_bar) * beta

    def posterior(clean: Tensor) -> Tensor:
        return (
            previous.sqrt() * beta / (1 - alpha_bar) * clean + (1 - beta).sqrt() * (1 - previous) / (1 - alpha_bar) * x
        )

    for variance, of_model in (("small", tilde), ("large", beta)):
        true = torch.distributions.Normal(posterior(x0), tilde.sqrt())
        model = torch.distributions.Normal(posterior(guess.clamp(-1, 1)), of_model.sqrt())
        expected = torch.distributions.kl_divergence(true, model).flatten(1).mean(1) / math.log(2)
        actual = coding_rate_distortion.coding_step(
            Prediction(guess, "x0"), x, x0, schedule, grid, 0, variance=variance
        )  # type: ignore[arg-type]
        torch.testing.assert_close(actual.bits, expected, rtol=1e-8, atol=0)
        torch.testing.assert_close(
            actual.squared_error, (guess.clamp(-1, 1) - x0).square().flatten(1).mean(1) * 127.5**2
        )


def test_the_prior_costs_the_remaining_signal() -> None:
    x0, schedule = normal(2, 1, 4, 4), schedules.linear()
    alpha_bar = schedule.alphas_bar[-1]
    last = torch.distributions.Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt().expand_as(x0))
    standard = torch.distributions.Normal(torch.zeros_like(x0), torch.ones_like(x0))
    expected = torch.distributions.kl_divergence(last, standard).flatten(1).mean(1) / math.log(2)
    actual = coding_rate_distortion.coding_prior(x0, schedule, coding_rate_distortion.coding_steps(schedule, steps=10))
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("mean", "scale"), [(0.1, 0.3), (-0.9, 0.002), (1.3, 0.05)])
def test_the_decoder_is_a_distribution_over_256_levels(mean: float, scale: float) -> None:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_likelihood = coding_rate_distortion.log_mass_of_bin(levels, *torch.tensor([mean, scale], dtype=torch.float64))
    assert float(log_likelihood.exp().sum()) == pytest.approx(1, abs=1e-10)
    assert bool(log_likelihood.isfinite().all())
    edges = np.concatenate([[-np.inf], (levels[:-1] + levels[1:]).numpy() / 2, [np.inf]])
    expected = np.diff(scipy.stats.norm.cdf(edges, mean, scale))
    np.testing.assert_allclose(log_likelihood.exp().numpy(), expected, rtol=1e-6, atol=1e-12)


def test_the_steps_go_from_noise_to_the_picture() -> None:
    assert coding_rate_distortion.coding_steps(SCHEDULE).tolist() == list(range(999, -1, -1))
    assert coding_rate_distortion.coding_steps(SCHEDULE, steps=4, spacing="timesteps").tolist() == [999, 666, 333, 0]
    even = snr(coding_rate_distortion.coding_steps(SCHEDULE, steps=20)).log().diff()
    torch.testing.assert_close(even, even.mean().expand_as(even), rtol=1e-3, atol=0)
    zero = coding_rate_distortion.coding_steps(schedules.zero_terminal_snr(schedules.scaled_linear()), steps=5)
    assert [float(zero[0]), float(zero[-1])] == [999, 0]
    assert bool((zero.diff() < 0).all())


def test_rows_add_up_and_batches_equal_one_large_batch() -> None:
    grid = torch.tensor([2.0, 1.0, 0.0])
    bits, error, prior = normal(3, 6).abs(), normal(3, 6, seed=1).abs(), normal(6, seed=2).abs()
    table = coding_rate_distortion.rate_distortion(bits, error, prior, grid)
    assert table["t"] == (2.0, 1.0, 0.0, None)
    total = [float(prior.mean() + bits[:i].sum(0).mean()) for i in range(4)]
    assert table.numbers("rate") == pytest.approx(total)
    assert table.numbers("rmse") == pytest.approx([*error.mean(1).sqrt().tolist(), 0])
    assert all(r["rate_low"] < r["rate"] < r["rate_high"] for r in table.records())  # type: ignore[operator]
    batched = coding_rate_distortion.rate_distortion(
        *(v.reshape(3, 2, 3).transpose(0, 1) for v in (bits, error)), prior.reshape(2, 3), grid
    )
    assert batched.numbers("rate_high") == pytest.approx(table.numbers("rate_high"))
    half = (table.numbers("rate_high")[3] - table.numbers("rate")[3]) / 1.96
    assert half == pytest.approx(float((prior + bits.sum(0)).std() / math.sqrt(6)), rel=0.3)


def test_the_experiment_measures_the_same_in_any_number_of_batches() -> None:
    """Each picture has noise of its own: batches that shared theirs would not be independent."""
    flow = load_workflow(ROOT / "workflows" / "experiments" / "rate_distortion.yaml")
    rates = [
        flow.run_with({"batches": 4 // n, "batch": n, "steps": 3}, only={"table"}).outputs["table"].numbers("rate")
        for n in (2, 4)
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-4)


def test_one_sample_has_no_interval() -> None:
    last = rows(torch.ones(2, 1), torch.ones(1)).records()[-1]
    assert last["rate"] == pytest.approx(3)
    assert math.isnan(last["rate_low"])  # type: ignore[arg-type]
    assert math.isnan(last["rate_high"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: at(2), "no step 2 of 2"),
        (lambda: rows(torch.zeros(3, 2), torch.zeros(2)), "of 2 steps"),
        (lambda: rows(torch.zeros(2, 2), torch.zeros(3)), "not of the same samples"),
        (lambda: rows(torch.zeros(2, 2) / 0, torch.zeros(2)), "not finite"),
    ],
)
def test_mismatched_inputs_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def at(index: int) -> coding_rate_distortion.CodingStep:
    x = torch.zeros(1, 1, 2, 2)
    return coding_rate_distortion.coding_step(Prediction(x, "eps"), x, x, SCHEDULE, torch.tensor([9.0, 0.0]), index)


def rows(bits: Tensor, prior: Tensor) -> Table:
    return coding_rate_distortion.rate_distortion(bits, bits, prior, torch.tensor([9.0, 0.0]))
