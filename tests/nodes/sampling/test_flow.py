"""Flow schedules: conversions, every solver from α = 0 on the exact paths of a mixture, images, noise and refusals."""

from __future__ import annotations

import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guidegraph.nodes.guidance.step_context import context
from guidegraph.nodes.models.model_nodes import load_model, save_model
from guidegraph.nodes.sampler_types import KINDS
from guidegraph.nodes.sampling import levels as grids
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import add_noise, step
from guidegraph.nodes.types import Levels, Prediction, Schedule
from guidegraph_runtime.samplers.sampler import SAMPLERS
from tests.nodes.sampling.closed_form import network, normal, sample, scaled_linear
from tests.nodes.sampling.mixture import MEANS, STD, WEIGHTS, MixtureDenoiser, flow_error, sample_mixture

# the schedule


def test_alpha_and_sigma_of_a_flow_are_exact_at_any_t() -> None:
    t = torch.tensor([0, 0.25, 1, 17.5, 500, 999, 999.9, 1000], dtype=torch.float64)
    for schedule in (schedules.flow(), schedules.flow(shift=3)):
        alpha, sigma = schedule.alpha_sigma(t)
        torch.testing.assert_close(sigma, t / 1000, atol=1e-13, rtol=0)
        torch.testing.assert_close(alpha, 1 - t / 1000, atol=1e-13, rtol=0)
    assert (float(alpha[-1]), float(sigma[-1]), float(alpha[0]), float(sigma[0])) == (0, 1, 1, 0)
    assert schedule.alpha_sigma(t.float())[0].dtype == torch.float32


def test_the_axis_of_a_flow() -> None:
    schedule = schedules.flow(train_steps=50)
    assert (schedule.train_steps, schedule.first, schedule.last, schedule.known) == (50, 1, 50, (1, 50))
    part = schedules.trained(schedule, last=40)
    assert (part.form, part.known) == ("flow", (1, 40))
    table = schedules.schedule_table(schedules.flow(train_steps=4, shift=2))
    assert table["sigma"] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert table["alpha"] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert table["log_snr"][0] == math.inf
    assert table["log_snr"][-1] == -math.inf


def test_a_flow_has_no_zero_terminal_snr_to_be_made() -> None:
    with pytest.raises(ValueError, match="ends in pure noise already"):
        schedules.zero_terminal_snr(schedules.flow())


def test_nodes_of_flows_refuse_other_schedules() -> None:
    for build in (
        lambda: schedules.flow_shift(scaled_linear(), torch.zeros(1, 4, 8, 8)),
        lambda: grids.flow(scaled_linear()),
        lambda: grids.flow_sd3(scaled_linear()),
        lambda: grids.flow_sigmas(scaled_linear()),
    ):
        with pytest.raises(ValueError, match=r"expected a flow schedule, as from schedule\.flow"):
            build()


def test_levels_of_another_form_are_refused() -> None:
    with pytest.raises(ValueError, match="of a schedule of form flow, and this schedule is variance_pres"):
        samplers.euler(scaled_linear(), grids.flow(schedules.flow()))


def test_a_sigma_above_1_and_a_terminal_of_one_step_are_refused() -> None:
    with pytest.raises(ValueError, match=r"σ of a flow schedule is from 0 to 1; found 1\.5"):
        grids.sigmas(schedules.flow(), sigmas=[1.5, 0.5])
    with pytest.raises(ValueError, match="cannot be stretched: use two steps"):
        grids.flow(schedules.flow(), steps=1, terminal=0.1)


def test_a_flow_is_saved_and_loaded(tmp_path: Any) -> None:
    schedule = schedules.trained(schedules.flow(train_steps=60, shift=2.5), last=55)
    save_model(schedule=schedule, path=tmp_path / "model")
    loaded = load_model(path=tmp_path / "model").schedule
    assert (loaded.form, loaded.shift, loaded.known) == ("flow", 2.5, (1, 55))
    torch.testing.assert_close(loaded.alphas_bar, schedule.alphas_bar, atol=0, rtol=0)


# conversions


def truth(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> dict[str, Tensor]:
    return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(product(KINDS, KINDS))), st.booleans(), st.floats(0.02, 0.98))
def test_all_kinds_convert_into_each_other(kinds: Any, is_flow: bool, place: float) -> None:
    source, target = kinds
    schedule = schedules.flow() if is_flow else scaled_linear()
    t = torch.tensor([place * schedule.last], dtype=torch.float64)
    x0, eps = normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1)
    alpha, sigma = schedule.along(x0, t)
    values, x = truth(x0, eps, alpha, sigma), schedule.add_noise(x0, eps, t)
    converted = schedule.convert(Prediction(values[source], source), target, x, t)
    assert converted.kind == target
    torch.testing.assert_close(converted.value, values[target], atol=1e-6, rtol=0)
    torch.testing.assert_close(schedule.score(converted, x, t), -eps / sigma, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("source", "target"), list(product(("x0", "v", "flow"), KINDS)))
def test_at_pure_noise_every_kind_but_eps_converts(source: Any, target: Any) -> None:
    schedule, t = schedules.flow(), torch.tensor([1000.0])
    x0, eps = normal(1, 1, 2, 2), normal(1, 1, 2, 2, seed=1)
    values = truth(x0, eps, *schedule.along(x0, t))
    converted = schedule.convert(Prediction(values[source], source), target, eps, t)
    torch.testing.assert_close(converted.value, values[target], atol=1e-12, rtol=0)


def test_the_context_of_a_step_converts_with_the_schedules_form() -> None:
    schedule = schedules.flow()
    sampler = samplers.euler(schedule, steps=4, spacing="trailing")
    state = sampler.state.__class__(torch.tensor([2]), sampler.state.slots)
    x0, eps, t = normal(2, 1, 2, 2), normal(2, 1, 2, 2, seed=1), sampler.steps[2:3]
    x = schedule.add_noise(x0, eps, t)
    here = context(sampler.scheduler, x, state, t)
    assert here.form == "flow"
    values = truth(x0, eps, *schedule.along(x0, t))
    for kind in KINDS:
        prediction = Prediction(values[kind], kind)
        for other, value in (("x0", here.x0(prediction)), ("eps", here.eps(prediction)), ("v", here.v(prediction))):
            torch.testing.assert_close(value, values[other], atol=1e-7, rtol=0)
        torch.testing.assert_close(here.flow(prediction), values["flow"], atol=1e-7, rtol=0)
        torch.testing.assert_close(here.convert(prediction, "v").value, values["v"], atol=1e-7, rtol=0)


# solvers

ORDERS = [
    ("euler", {}, 1.0),
    ("ddim", {}, 1.0),
    ("euler_stochastic", {"eta": 0.0}, 1.0),
    ("heun_flow", {}, 2.0),
    ("heun", {}, 2.0),
    ("edm", {}, 2.0),
    ("dpm2", {}, 2.0),
    ("dpm2_ancestral", {"eta": 0.0}, 2.0),
    ("dpmpp_2m", {}, 2.0),
    ("dpmpp_2m", {"solver_type": "heun"}, 2.0),
    ("dpmpp_2s", {}, 2.0),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, 2.0),
    ("unipc", {}, 2.0),  # its last steps have a lower order
    ("unipc", {"order": 1}, 2.0),
    ("unipc", {"lower_order_final": False}, 3.0),
    ("unipc", {"order": 3, "lower_order_final": False}, 4.1),
    ("unipc", {"variant": "bh1", "lower_order_final": False}, 3.0),
    ("deis", {"order": 2}, 2.0),
    ("deis", {"order": 3}, 2.0),  # of the Euler step from α = 0
    ("lms", {}, 2.2),
    ("pndm", {}, 2.0),
]


@pytest.mark.parametrize(("name", "more", "expected"), ORDERS)
def test_order_of_convergence_from_pure_noise(name: str, more: dict[str, Any], expected: float) -> None:
    coarse, fine = flow_error(name, 40, more), flow_error(name, 80, more)
    assert math.log2(coarse / fine) == pytest.approx(expected, abs=0.3), (coarse, fine)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_starts_at_pure_noise_and_reaches_the_data(name: str) -> None:
    schedule = schedules.flow(shift=2)
    sampler: Sampler = getattr(samplers, name)(schedule, steps=12)
    assert (float(sampler.scheduler.alpha[0]), float(sampler.scheduler.sigma[0])) == (0, 1)
    assert sampler.scheduler.form == "flow"
    alpha, sigma = (level.double() for level in (sampler.scheduler.alpha, sampler.scheduler.sigma))
    torch.testing.assert_close(alpha + sigma, torch.ones_like(alpha), atol=1e-12, rtol=0)
    torch.testing.assert_close(sampler.steps.double() / 1000, sigma, atol=1e-6, rtol=0)
    noises = [normal(1, 1, 40, 40, seed=i + 1) for i in range(len(sampler.steps))]
    x = sample_mixture(sampler, normal(1, 1, 40, 40), schedule, noises=noises)
    assert torch.isfinite(x).all()
    near = torch.stack([(x - mean).abs() for mean in MEANS]).amin(0)
    assert float((near < 4 * STD).double().mean()) > 0.97


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_sampler_takes_one_step(name: str) -> None:
    sampler: Sampler = getattr(samplers, name)(schedules.flow(), steps=1, final="one")
    x = normal(1, 1, 4, 4)
    actual = sample_mixture(sampler, x, schedules.flow(), noises=[torch.zeros_like(x)])
    expected = MixtureDenoiser(schedules.flow(), "x0")(x, torch.tensor([1000.0])).value
    atol = 1e-4 if name in ("lcm",) else 1e-10  # c_skip of a consistency model is almost 0
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ddpm", {}),
        ("ddim", {"eta": 0.5}),
        ("ddim", {"eta": 1.0}),
        ("euler_ancestral", {}),
        ("dpm2_ancestral", {}),
        ("dpmpp_2m_sde", {}),
        ("dpmpp_2s_ancestral", {}),
        ("dpmpp_3m_sde", {}),
        ("dpmpp_sde", {}),
        ("edm", {"churn": 20.0}),
        ("tcd", {"original_steps": 300, "eta": 0.3}),
    ],
)
def test_stochastic_samplers_reach_the_datas_moments(name: str, more: dict[str, Any]) -> None:
    schedule = schedules.flow()
    sampler: Sampler = getattr(samplers, name)(schedule, steps=200, **more)
    noises = (normal(1, 1, 60, 60, seed=i + 1) for i in range(len(sampler.steps)))
    x = sample_mixture(sampler, normal(1, 1, 60, 60), schedule, noises=list(noises))
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
    second = sum(w * (m**2 + STD**2) for w, m in zip(WEIGHTS, MEANS, strict=True))
    assert x.mean().item() == pytest.approx(mean, abs=0.05)
    assert x.std().item() == pytest.approx((second - mean**2) ** 0.5, abs=0.05)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"ddpm"}))
def test_all_kinds_give_the_same_sample(name: str) -> None:
    schedule, settings = schedules.flow(), {"combine": "v"} if name == "pndm" else {}
    sampler: Sampler = getattr(samplers, name)(schedule, steps=8, **settings)
    x, noises = normal(1, 1, 8, 8), [normal(1, 1, 8, 8, seed=i + 1) for i in range(len(sampler.steps))]
    by_flow = sample_mixture(sampler, x, schedule, noises=noises)
    for kind in ("x0", "v"):
        torch.testing.assert_close(sample_mixture(sampler, x, schedule, kind, noises), by_flow, atol=1e-8, rtol=0)


def test_heun_of_the_flow_is_its_formula() -> None:
    schedule, sigmas = schedules.flow(), [1.0, 0.7, 0.3, 0.0]
    sampler = samplers.heun_flow(schedule, grids.sigmas(schedule, sigmas=sigmas))
    assert len(sampler.steps) == 5
    x = y = normal(1, 64)
    for a, b in pairwise(sigmas):
        u = network(y, 1 - a, a, "flow").value
        end = y + (b - a) * u
        y = y + (b - a) / 2 * (u + network(end, 1 - b, b, "flow").value) if b > 0 else end
    torch.testing.assert_close(sample(sampler, x, kind="flow", schedule=schedule), y, atol=1e-6, rtol=0)


def test_heun_of_the_flow_on_a_variance_preserving_schedule_follows_the_same_path() -> None:
    x, schedule = normal(1, 64), scaled_linear()
    levels = grids.sigmas(schedule, sigmas=np.geomspace(14, 0.05, 200).tolist(), final="listed")
    fine = sample(samplers.heun(schedule, levels), x)
    torch.testing.assert_close(sample(samplers.heun_flow(schedule, levels), x), fine, atol=2e-3, rtol=0)


def test_unipc_near_pure_noise_goes_to_its_limit() -> None:
    schedule, x = schedules.flow(), normal(1, 1, 8, 8)

    def run(ratio: float) -> Tensor:
        ratios = [ratio, *(sigma / (1 - sigma) for sigma in (0.8, 0.6, 0.4, 0.2, 0.1)), 0.0]
        t = [1000 if math.isinf(r) else 1000 * r / (1 + r) for r in ratios[:-1]]
        levels = Levels(*(torch.tensor(values, dtype=torch.float64) for values in ([*t, -1], ratios)), "flow")
        return sample_mixture(samplers.unipc(schedule, levels), x, schedule)

    distances = [float((run(math.exp(-lam)) - run(math.inf)).abs().max()) for lam in (-7, -70, -700)]
    assert distances[0] > 5 * distances[1] > 25 * distances[2]
    assert distances[2] < 1e-4


def test_from_the_data_to_the_noise_and_back() -> None:
    schedule = schedules.flow()
    levels = grids.flow(schedule, steps=400, sigma_max=0.9)
    rising = grids.reverse(levels, schedule)
    x0 = normal(1, 64) * 0.3
    start = schedule.add_noise(x0, torch.zeros_like(x0), torch.tensor([float(rising.t[0])]))
    noisy = sample(samplers.heun_flow(schedule, rising), start, kind="flow", schedule=schedule)
    back = sample(samplers.heun_flow(schedule, levels), noisy, kind="flow", schedule=schedule)
    torch.testing.assert_close(back, x0, atol=1e-2, rtol=0)


def test_eps_says_nothing_at_pure_noise() -> None:
    schedule, x = schedules.flow(), normal(1, 1, 2, 2)
    with pytest.raises(ValueError, match="use a model that predicts v, x0 or flow"):
        sample_mixture(samplers.euler(schedule, steps=3), x, schedule, "eps")
    later = grids.sigmas(schedule, sigmas=[0.9, 0.5])
    by_eps = sample_mixture(samplers.euler(schedule, later), x, schedule, "eps")
    torch.testing.assert_close(by_eps, sample_mixture(samplers.euler(schedule, later), x, schedule), atol=1e-9, rtol=0)


# pictures


@pytest.mark.parametrize("name", ["euler", "heun_flow", "dpmpp_2m", "unipc", "dpm2"])
def test_a_start_from_a_picture_has_the_level_of_the_first_row(name: str) -> None:
    schedule = schedules.flow(shift=3)
    sampler: Sampler = getattr(samplers, name)(schedule, steps=10, strength=0.4)
    x0, noise = normal(1, 1, 4, 4), normal(1, 1, 4, 4, seed=1)
    sigma = float(sampler.steps[0]) / 1000
    assert 0 < sigma < 1
    start = add_noise(sampler.scheduler, x0, noise)
    torch.testing.assert_close(start, (1 - sigma) * x0 + sigma * noise, atol=1e-6, rtol=0)
    assert torch.isfinite(sample_mixture(sampler, start, schedule)).all()


def test_inpainting_keeps_what_is_outside_the_mask() -> None:
    schedule = schedules.flow()
    sampler = samplers.euler(schedule, steps=8)
    x0, noise = normal(1, 1, 6, 6), normal(1, 1, 6, 6, seed=1)
    mask = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    mask[..., :3] = 1
    x, state, denoiser = noise, sampler.state, MixtureDenoiser(schedule)
    for t in sampler.steps.split(1):
        x, state = step(sampler.scheduler, x, denoiser(x, t), state, t)
        known = add_noise(sampler.scheduler, x0, noise, state)
        x = mask * x + (1 - mask) * known
    torch.testing.assert_close(x[..., 3:], x0[..., 3:], atol=1e-12, rtol=0)
    assert float((x[..., :3] - x0[..., :3]).abs().max()) > 0.1


def test_the_levels_of_a_flow_as_a_table() -> None:
    schedule: Schedule = schedules.flow()
    table = grids.levels_table(grids.flow(schedule, steps=4))
    assert table["sigma"] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert table["alpha"] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    before, after = grids.split(grids.flow(schedule, steps=4), at=2)
    assert (before.form, after.form) == ("flow", "flow")
    assert grids.start(grids.flow(schedule, steps=4), strength=0.5).form == "flow"
