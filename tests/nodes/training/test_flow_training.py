"""Training on a flow: densities of timesteps, targets and weights of the loss, and a mean that a network learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from guidegraph.graph.node import get_spec
from guidegraph.nodes.sampler_types import KINDS
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.training import losses
from guidegraph.nodes.training import timesteps as draws
from guidegraph.nodes.types import Prediction, Schedule
from tests.nodes.sampling.closed_form import normal, scaled_linear

LIKE = torch.zeros(4000, 1, 1, 1)


def logit_normal(t: float, m: float, s: float) -> float:
    """π(t; m, s) of Esser et al. 2024."""
    return math.exp(-((math.log(t / (1 - t)) - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi) * t * (1 - t))


DENSITIES: list[tuple[Callable[..., Tensor], dict[str, Any], Callable[[float], float]]] = [
    (draws.uniform_timesteps, {}, lambda t: 1.0),
    (draws.logit_normal_timesteps, {}, lambda t: logit_normal(t, 0, 1)),
    (draws.logit_normal_timesteps, {"mean": 0.5, "std": 0.6}, lambda t: logit_normal(t, 0.5, 0.6)),
    (draws.cosmap_timesteps, {}, lambda t: 2 / (math.pi - 2 * math.pi * t + 2 * math.pi * t**2)),
    (draws.mode_timesteps, {"scale": 0.0}, lambda t: 1.0),
]


@pytest.mark.parametrize(("node", "settings", "density"), DENSITIES)
def test_timesteps_have_the_papers_density(
    node: Callable[..., Tensor], settings: dict[str, Any], density: Callable[[float], float]
) -> None:
    schedule = schedules.trained(schedules.flow(), first=0, last=1000)
    t = node(LIKE, schedule, **settings)
    assert t.dtype == torch.float32
    for edge in (0.1, 0.3, 0.5, 0.8, 0.95):
        share = float((t / 1000 < edge).double().mean())
        assert share == pytest.approx(quad(density, 1e-9, edge)[0], abs=2e-3)


@pytest.mark.parametrize("scale", [-1.0, 0.8, 1.29, 1.75])
def test_mode_timesteps_are_the_papers_function_of_a_uniform_one(scale: float) -> None:
    schedule = schedules.trained(schedules.flow(), first=0, last=1000)
    t = draws.mode_timesteps(LIKE, schedule, scale=scale).double().numpy() / 1000
    u = draws.uniform_timesteps(LIKE, schedule).double().numpy() / 1000
    np.testing.assert_allclose(t, 1 - u - scale * (np.cos(np.pi / 2 * u) ** 2 - 1 + u), atol=1e-6)
    middle = float(((t > 0.45) & (t < 0.55)).mean())
    assert (middle > 0.1) == (scale > 0)


def test_a_scale_that_folds_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="less"):
        get_spec(draws.mode_timesteps).settings["scale"].literal(1.8)


@pytest.mark.parametrize("node", [draws.uniform_timesteps, draws.logit_normal_timesteps, draws.cosmap_timesteps])
def test_a_shift_moves_training_as_it_moves_levels(node: Callable[..., Tensor]) -> None:
    plain, shifted = (node(LIKE, schedules.flow(shift=shift)).double() / 1000 for shift in (1.0, 3.0))
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "node", [draws.uniform_timesteps, draws.logit_normal_timesteps, draws.mode_timesteps, draws.cosmap_timesteps]
)
def test_timesteps_stay_in_the_trained_range_and_follow_seed_and_index(node: Callable[..., Tensor]) -> None:
    for schedule in (
        schedules.trained(schedules.flow(), first=200, last=700),
        schedules.trained(schedules.flow(shift=3.0), first=200, last=700),
        schedules.trained(scaled_linear(), last=700),
    ):
        t = node(LIKE, schedule, 3, seed=5)
        assert float(t.min()) >= (200 if schedule.form == "flow" else 0)
        assert float(t.max()) <= 700
        assert torch.equal(t, node(LIKE, schedule, 3, seed=5))
        assert not torch.equal(t, node(LIKE, schedule, 4, seed=5))
    assert torch.equal(draws.uniform_timesteps(LIKE, scaled_linear()) % 1, torch.zeros(len(LIKE)))


def test_the_uniform_loss_on_u_is_that_of_flow_matching() -> None:
    schedule, t = schedules.flow(), torch.tensor([100.0, 500.0, 999.0])
    x0, noise, value = (normal(3, 2, 4, 4, seed=i).float() for i in range(3))
    loss = losses.denoising_loss(Prediction(value, "flow"), x0, noise, t, schedule)
    torch.testing.assert_close(loss, (value - (noise - x0)).square().mean())


@pytest.mark.parametrize("schedule", [schedules.flow(), scaled_linear()], ids=["flow", "vp"])
@pytest.mark.parametrize("weighting", ["flow", "min_snr", "truncated"])
def test_a_weighting_is_the_same_loss_for_every_kind(schedule: Schedule, weighting: Any) -> None:
    t = torch.tensor([50.0, 400.0, 900.0])
    x0, noise, u = (normal(3, 2, 4, 4, seed=i).float() for i in range(3))
    x = schedule.add_noise(x0, noise, t)
    prediction = Prediction(u, "flow")
    values = [
        float(
            losses.denoising_loss(schedule.convert(prediction, kind, x, t), x0, noise, t, schedule, weighting=weighting)
        )
        for kind in KINDS
    ]
    assert values == pytest.approx([values[0]] * len(KINDS), rel=1e-3)
    if weighting == "flow":
        assert values[0] == pytest.approx(float((u - (noise - x0)).square().mean()), rel=1e-3)


def test_weights_by_kind_are_the_stated_ones() -> None:
    schedule, sigma = schedules.flow(), torch.tensor([0.2, 0.5, 0.9])
    alpha, snr = 1 - sigma, ((1 - sigma) / sigma) ** 2
    power = alpha**2 + sigma**2
    weights = {kind: losses.snr_weight(snr, kind, "flow", 5.0, power) for kind in KINDS}
    torch.testing.assert_close(weights["flow"], torch.ones(3))
    torch.testing.assert_close(weights["x0"], 1 / sigma**2)
    torch.testing.assert_close(weights["eps"], 1 / alpha**2)
    torch.testing.assert_close(weights["v"], 1 / power**2)
    assert schedule.form == "flow"


def test_a_constant_network_learns_the_mean_of_u() -> None:
    schedule = schedules.flow()
    x0 = torch.full((64, 1, 1, 1), 0.7) + 0.1 * normal(64, 1, 1, 1).float()
    value = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([value], lr=0.05)
    for i in range(200):
        t = draws.logit_normal_timesteps(x0, schedule, i)
        noise = normal(64, 1, 1, 1, seed=i + 1).float()
        loss = losses.denoising_loss(Prediction(value.expand(64, 1, 1, 1), "flow"), x0, noise, t, schedule)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(value) == pytest.approx(-0.7, abs=0.06)


def loss_with_focus(t: float, focus: Tensor | None, **settings: float) -> Tensor:
    """The loss of a prediction that is off by one in the left half and right in the other, on a flow."""
    x0, noise = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    value = noise - x0
    value[..., :2] += 1
    return losses.denoising_loss(
        Prediction(value, "flow"), x0, noise, torch.tensor([t]), schedules.flow(), focus, **settings
    )


@pytest.mark.parametrize("t", [0.0, 250.0, 900.0])
def test_errors_in_the_focus_count_more_the_less_noise_there_is(t: float) -> None:
    focus = torch.zeros(2, 1, 4, 4)
    focus[..., :1] = 1.0  # half of the wrong half
    alpha = float(schedules.flow().along(focus, torch.tensor([t]))[0])
    expected = 0.5 * (1 + 6 * alpha / 2)
    assert float(loss_with_focus(t, focus, focus_weight=6.0)) == pytest.approx(expected, rel=1e-5)
    assert float(loss_with_focus(t, focus.flip(3), focus_weight=6.0)) == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(loss_with_focus(t, focus), loss_with_focus(t, None))


def test_a_focus_of_other_sides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a focus \(2, 1, 4, 4\).*found \(2, 1, 8, 8\)"):
        loss_with_focus(500.0, torch.zeros(2, 1, 8, 8))
