"""Schedules: their constants in the literature, interpolation, and the conversions between predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guidegraph.graph.node import get_spec
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.types import Prediction, Schedule
from tests.nodes.sampling.closed_form import normal, scaled_linear

KINDS = ("eps", "x0", "v")


def betas(schedule: Schedule) -> Tensor:
    before = torch.cat([torch.ones(1, dtype=torch.float64), schedule.alphas_bar[:-1]])
    return 1 - schedule.alphas_bar / before


def test_linear_betas_rise_linearly() -> None:
    actual = betas(schedules.linear(train_steps=1000, beta_start=1e-4, beta_end=0.02))
    torch.testing.assert_close(actual, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), atol=1e-14, rtol=0)


def test_scaled_linear_has_stable_diffusions_last_alpha_bar() -> None:
    assert scaled_linear().alphas_bar[-1].item() == pytest.approx(0.0046600, abs=1e-6)


def test_cosine_betas_start_where_the_paper_has_them_and_stop_at_the_cap() -> None:
    cosine_betas = betas(schedules.cosine())
    assert cosine_betas[0].item() == pytest.approx(4.12842e-5, abs=1e-10)
    assert cosine_betas[-1].item() == pytest.approx(0.999, abs=1e-9)


def test_sigmoid_betas_stay_between_their_ends() -> None:
    sigmoid_betas = betas(schedules.sigmoid(beta_start=1e-4, beta_end=0.02))
    assert (sigmoid_betas.diff() > 0).all()
    assert sigmoid_betas[500].item() == pytest.approx(0.01005 + 0.0199 * 0.25 * 6 / 999, rel=1e-4)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_start() -> None:
    schedule = scaled_linear()
    ended = schedules.zero_terminal_snr(schedule)
    assert ended.alphas_bar[-1].item() == 0
    assert ended.alphas_bar[0].item() == pytest.approx(schedule.alphas_bar[0].item(), abs=1e-15)
    alpha, sigma = ended.alpha_sigma(torch.tensor([998.0, 999.0]))
    assert torch.isfinite(alpha).all()
    assert alpha[1].item() == 0
    assert sigma[1].item() == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_alpha_and_sigma_at_whole_timesteps_are_the_table(dtype: torch.dtype) -> None:
    schedule = scaled_linear()
    alpha, sigma = schedule.alpha_sigma(torch.arange(1000, dtype=dtype))
    assert alpha.dtype == sigma.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(
        alpha, schedule.alphas_bar.sqrt().to(alpha.dtype), rtol=1e-6 if dtype != torch.float64 else 1e-13, atol=0
    )
    torch.testing.assert_close(
        sigma, (1 - schedule.alphas_bar).sqrt().to(sigma.dtype), rtol=1e-6 if dtype != torch.float64 else 1e-12, atol=0
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 1010))
def test_between_timesteps_log_sigma_over_alpha_is_linear(t: float) -> None:
    schedule = scaled_linear()
    log_ratio = 0.5 * torch.log((1 - schedule.alphas_bar) / schedule.alphas_bar)
    alpha, sigma = schedule.alpha_sigma(torch.tensor([t], dtype=torch.float64))
    assert (alpha**2 + sigma**2).item() == pytest.approx(1, abs=1e-14)
    assert torch.log(sigma / alpha).item() == pytest.approx(np.interp(t, np.arange(1000), log_ratio.numpy()), abs=1e-11)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.lists(st.floats(0, 999), min_size=3, max_size=3))
def test_conversions_recover_the_components_of_x(source: str, target: str, times: list[float]) -> None:
    schedule, t = scaled_linear(), torch.tensor(times, dtype=torch.float64)
    x0, eps = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    alpha, sigma = (c.reshape(3, 1, 1, 1) for c in schedule.alpha_sigma(t))
    truth = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}
    x = schedule.add_noise(x0, eps, t)
    torch.testing.assert_close(x, alpha * x0 + sigma * eps)
    converted = schedule.convert(Prediction(truth[source], source), target, x, t)  # type: ignore[arg-type]
    assert converted.kind == target
    torch.testing.assert_close(converted.value, truth[target], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(schedule.score(converted, x, t), -eps / sigma, atol=1e-7, rtol=1e-7)


def test_one_time_broadcasts_and_half_precision_computes_in_float32() -> None:
    schedule = scaled_linear()
    x, value = normal(3, 1, 2, 2).half(), normal(3, 1, 2, 2, seed=1).half()
    prediction = Prediction(value, "eps")
    broadcast = schedule.to_x0(prediction, x, torch.tensor([500.0]))
    each = schedule.to_x0(prediction, x, torch.full((3,), 500.0))
    assert broadcast.dtype == torch.float32
    assert torch.equal(broadcast, each)


def test_nodes_agree_with_the_methods() -> None:
    schedule, t = scaled_linear(), torch.tensor([300.0])
    x0, eps = normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1)
    x = schedules.add_noise(x0, eps, t, schedule)
    converted = schedules.convert(Prediction(eps, "eps"), x, t, schedule, kind="x0")
    torch.testing.assert_close(converted.value, x0)


@pytest.mark.parametrize("alphas_bar", [[0.9], [0.9, 0.9], [0.5, 0.9]])
def test_zero_terminal_snr_takes_noise_that_grows(alphas_bar: list[float]) -> None:
    schedule = Schedule(torch.tensor(alphas_bar, dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"noise that grows with t; found ᾱ from .* in {len(alphas_bar)} steps"):
        schedules.zero_terminal_snr(schedule)


def test_betas_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be above beta_end"):
        schedules.linear(beta_start=0.02, beta_end=0.01)


@pytest.mark.parametrize(("setting", "value"), [("beta_start", 0.0), ("beta_end", 1.0), ("train_steps", 1)])
def test_settings_out_of_range_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"greater|less"):
        get_spec(schedules.linear).settings[setting].literal(value)
