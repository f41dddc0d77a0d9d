"""EDM (Karras et al. 2022): its noise levels as a schedule, and a raw network F as a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from guidegraph.nodes.guidance.hooks import HookedDenoiser
from guidegraph.nodes.models.own.unet import UNet, UNetConfig, UNetDenoiser
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling.denoiser_edm import precondition
from guidegraph.nodes.sampling.scheduler import Sampler, ddim, dpmpp_2m, euler
from guidegraph.nodes.sampling.scheduler_step import step
from guidegraph.nodes.types import Condition, Denoiser, Prediction, PredictionKind, Schedule

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0


def karras(steps: int) -> np.ndarray:
    """Eq. 5, from the largest σ down."""
    ramp = np.arange(steps) / (steps - 1)
    return np.asarray((SIGMA_MAX ** (1 / RHO) + ramp * (SIGMA_MIN ** (1 / RHO) - SIGMA_MAX ** (1 / RHO))) ** RHO)


def ratio(schedule: Schedule, t: Tensor) -> Tensor:
    alpha, sigma = schedule.alpha_sigma(t.double())
    return sigma / alpha


def network(kind: PredictionKind = "eps", seen: list[tuple[Tensor, Tensor]] | None = None) -> Denoiser:
    """F(x; c) = tanh(x) + c as a denoiser of any kind."""

    def call(x: Tensor, t: Tensor, condition: Condition) -> Prediction:
        if seen is not None:
            seen.append((x, t))
        return Prediction(x.tanh() + t.to(x.dtype).reshape(-1, 1, 1, 1), kind)

    return call


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_the_schedule_has_the_papers_levels_on_its_axis() -> None:
    schedule = schedules.edm()
    levels = ratio(schedule, torch.arange(999, -1, -1)).numpy()
    np.testing.assert_allclose(levels, karras(1000), rtol=1e-9)


def test_fewer_steps_visit_the_papers_levels() -> None:
    sampler = euler(schedules.edm(), steps=18, sigmas="karras").scheduler
    np.testing.assert_allclose((sampler.sigma / sampler.alpha).numpy(), karras(18), rtol=1e-6)
    as_spaced = euler(schedules.edm(), steps=18).scheduler  # between two of the 1,000 levels, log σ is interpolated
    np.testing.assert_allclose((as_spaced.sigma / as_spaced.alpha).numpy(), karras(18), rtol=2e-5)


def test_exponential_levels_are_even_in_log_sigma() -> None:
    schedule = schedules.edm(sigmas="exponential", sigma_max=500.0, sigma_min=0.01, train_steps=100)
    levels = ratio(schedule, torch.tensor([0.0, 33.25, 99.0]))
    expected = np.exp(np.interp([0, 33.25, 99], [0, 99], np.log([0.01, 500.0])))
    np.testing.assert_allclose(levels.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("sampler", [ddim, euler, dpmpp_2m])
def test_samplers_start_at_sigma_max(sampler: Callable[..., Sampler]) -> None:
    scheduler = sampler(schedules.edm(sigma_max=500.0), steps=10, spacing="linspace").scheduler
    assert float(scheduler.sigma[0] / scheduler.alpha[0]) == pytest.approx(500, rel=1e-6)


def test_levels_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sigma_min 3\.0 must be below sigma_max 2\.0"):
        schedules.edm(sigma_min=3.0, sigma_max=2.0)


# --- preconditioning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 1.7])
def test_coefficients_are_those_of_diffusers(kind: PredictionKind, sigma_data: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.EDMEulerScheduler(
        sigma_data=sigma_data, prediction_type={"eps": "epsilon", "v": "v_prediction"}[kind]
    )
    schedule, t = schedules.edm(), torch.tensor([0.0, 411.5, 999.0])
    alpha, sigma = (level.reshape(-1, 1, 1, 1) for level in schedule.alpha_sigma(t.double()))
    x = noise(3, 2, 4, 4)
    seen: list[tuple[Tensor, Tensor]] = []
    prediction = precondition(network(kind, seen), schedule, sigma_data=sigma_data)(x, t, Condition())
    scaled, c_noise = theirs.precondition_inputs(x / alpha, sigma / alpha), theirs.precondition_noise(sigma / alpha)
    torch.testing.assert_close(seen[0][0], scaled, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(seen[0][1].double(), c_noise.flatten(), rtol=1e-6, atol=1e-6)
    output = scaled.tanh() + seen[0][1].double().reshape(-1, 1, 1, 1)
    denoised = theirs.precondition_outputs(x / alpha, output, sigma / alpha)
    assert prediction.kind == "x0"
    torch.testing.assert_close(prediction.value, denoised, rtol=1e-9, atol=1e-9)


def draw(sampler: Sampler, denoiser: Denoiser, start: Tensor) -> Tensor:
    x, state = start, sampler.state
    for t in sampler.steps:
        prediction = denoiser(x, t.expand(len(x)), Condition())
        x, state = step(sampler.scheduler, x, prediction, state, t[None])
    return x


def draw_with_diffusers(scheduler: Any, steps: int, unit: Tensor) -> Tensor:
    scheduler.set_timesteps(steps)
    x: Tensor = unit * scheduler.sigmas[0].double()
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        output = network()(scaled, t.double().expand(len(x)), Condition()).value
        x = scheduler.step(output, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (euler, "EDMEulerScheduler", {}),
        (dpmpp_2m, "EDMDPMSolverMultistepScheduler", {"final_sigmas_type": "zero"}),
    ],
)
def test_full_runs_match_diffusers(ours: Callable[..., Sampler], theirs: str, settings: dict[str, Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule, unit = schedules.edm(), noise(2, 3, 8, 8)
    sampler = ours(schedule, steps=20, sigmas="karras")
    actual = draw(sampler, precondition(network(), schedule, sigma_data=0.5), unit * sampler.scheduler.sigma[0])
    expected = draw_with_diffusers(getattr(diffusers, theirs)(**settings), 20, unit)
    assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5


def test_with_unit_data_variance_the_raw_network_predicts_minus_v() -> None:
    """With σ_data = 1, c_skip x + c_out F = α z + σ F."""
    schedule, x, t = schedules.cosine(), noise(2, 3, 4, 4), torch.tensor([20.0, 970.0])
    actual = precondition(network(), schedule, sigma_data=1.0)(x, t, Condition()).value
    alpha, sigma = schedule.along(x, t)
    c_noise = ((sigma / alpha).log() / 4).float().double()
    expected = schedule.to_x0(Prediction(-(x.tanh() + c_noise), "v"), x, t)
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-7)


def test_a_preconditioned_network_gets_x_over_alpha_and_sigma() -> None:
    schedule, x, t = schedules.edm(), noise(2, 3, 4, 4), torch.tensor([3.0, 900.25])
    seen: list[tuple[Tensor, Tensor]] = []
    denoiser = precondition(network("x0", seen), schedule, network="preconditioned")
    prediction = denoiser(x, t, Condition())
    alpha, sigma = schedule.along(x, t)
    torch.testing.assert_close(seen[0][0], x / alpha, rtol=1e-12, atol=0)
    torch.testing.assert_close(seen[0][1].double(), (sigma / alpha).flatten(), rtol=1e-6, atol=0)
    torch.testing.assert_close(prediction.value, seen[0][0].tanh() + seen[0][1].double().reshape(-1, 1, 1, 1))
    assert prediction.kind == "x0"


def test_a_raw_network_that_predicts_x0_is_refused() -> None:
    denoiser = precondition(network("x0"), schedules.edm())
    with pytest.raises(ValueError, match=r"predicts x0, which a raw network cannot: .* `network: preconditioned`"):
        denoiser(noise(1, 3, 4, 4), torch.zeros(1), Condition())


def test_a_raw_network_of_kind_x0_is_refused_before_any_step() -> None:
    config = UNetConfig(in_channels=3, out_channels=3, channels=16, multipliers=(1,), blocks=1, attention=(), kind="x0")
    learned = UNetDenoiser(UNet(config)).eval()
    with pytest.raises(ValueError, match=r"predicts x0, which a raw network cannot"):
        precondition(learned, schedules.edm())
    assert precondition(learned, schedules.edm(), network="preconditioned")


@pytest.mark.parametrize("build", [schedules.flow, lambda: schedules.zero_terminal_snr(schedules.linear())])
def test_a_schedule_without_a_largest_sigma_is_refused(build: Callable[[], Schedule]) -> None:
    schedule = build()
    with pytest.raises(
        ValueError, match=r"σ/α is infinite at t = .*schedule\.edm, or schedule\.trained with a smaller"
    ):
        precondition(network(), schedule)
    part = schedules.trained(schedule, last=990)
    x, t = noise(1, 3, 4, 4), torch.tensor([990.0])
    assert torch.isfinite(precondition(network(), part)(x, t, Condition()).value).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_and_the_caller_see_the_dtype_of_x(dtype: torch.dtype) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    prediction = precondition(network(seen=seen), schedules.edm())(
        noise(2, 3, 4, 4, dtype=dtype), torch.ones(2), Condition()
    )
    assert (seen[0][0].dtype, seen[0][1].dtype, prediction.value.dtype) == (dtype, torch.float32, dtype)


def test_sites_of_the_network_are_sites_of_the_denoiser() -> None:
    torch.manual_seed(0)
    config = UNetConfig(in_channels=3, out_channels=3, channels=16, multipliers=(1,), blocks=1, attention=(0,), heads=2)
    inner = UNetDenoiser(UNet(config)).eval()
    torch.nn.init.normal_(inner.network.get_parameter([*dict(inner.network.named_parameters())][-2]))
    denoiser = precondition(inner, schedules.edm())
    assert isinstance(denoiser, HookedDenoiser)
    assert denoiser.sites() == inner.sites()
    site = next(site for site in denoiser.sites() if site.kind == "feature")
    x, t = noise(1, 3, 8, 8, dtype=torch.float32), torch.tensor([700.0])
    plain, values = denoiser.captured(x, t, Condition(), [site])
    assert plain.kind == "x0"
    assert set(values) == {site}
    changed = denoiser.with_rules({site: lambda h: -h})(x, t, Condition())
    assert not torch.allclose(plain.value, changed.value)
    assert not isinstance(precondition(network(), schedules.edm()), HookedDenoiser)
