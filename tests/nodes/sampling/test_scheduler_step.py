"""The generic step: clipping, learned variance, scores, noise, errors and tracing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from guidegraph.graph.execution.watched_sizes import use_viewer
from guidegraph.graph.types import register_structured
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_step import Step, add_noise, mean, step
from guidegraph.nodes.types import Prediction, Schedule, SchedulerState
from guidegraph_runtime.samplers.sampler import SAMPLERS
from guidegraph_runtime.tables.rows import Table
from tests.nodes.sampling.closed_form import network, normal, sample, scaled_linear

SHAPE = (2, 3, 4, 4)


def at_row(sampler: Sampler, row: int) -> tuple[SchedulerState, Tensor]:
    return replace(sampler.state, index=torch.tensor([row])), sampler.steps[row : row + 1]


def one_step(sampler: Sampler, row: int, x: Tensor, prediction: Prediction, **ports: Any) -> Step:
    state, t = at_row(sampler, row)
    return step(sampler.scheduler, x, prediction, state, t, **ports)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["ddim", "heun", "lms", "pndm", "dpmpp_2m", "unipc", "deis"]),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.integers(0, 8),
)
def test_without_clipping_a_step_is_linear(name: str, a: float, b: float, row: int) -> None:
    sampler = getattr(samplers, name)(scaled_linear(), steps=12)
    state, t = at_row(sampler, row)
    parts = []
    for seed in (0, 10):
        x, eps, slots = normal(*SHAPE, seed=seed), normal(*SHAPE, seed=seed + 1), normal(4, *SHAPE, seed=seed + 2)
        parts.append((x, eps, slots))
    (x, e, s), (y, f, r) = parts

    def go(x: Tensor, eps: Tensor, slots: Tensor) -> Tensor:
        moved, after = step(sampler.scheduler, x, Prediction(eps, "eps"), replace(state, slots=slots), t)
        return torch.cat([moved[None], after.slots])

    mixed = go(a * x + b * y, a * e + b * f, a * s + b * r)
    torch.testing.assert_close(mixed, a * go(x, e, s) + b * go(y, f, r), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"heun_flow"}))
def test_a_step_is_the_rows_matrix_times_its_inputs(name: str) -> None:
    """Also of rows that keep nothing, whose few terms are added without the matrix."""
    sampler = getattr(samplers, name)(scaled_linear(), steps=6)
    scheduler = sampler.scheduler
    x, x0, noise, slots = (
        normal(*shape, seed=i).double() for i, shape in enumerate((SHAPE, SHAPE, SHAPE, (4, *SHAPE)))
    )
    for row in range(len(scheduler.t)):
        if not scheduler.sigma[row]:
            continue
        state = SchedulerState(torch.tensor([row]), slots)
        moved = step(scheduler, x, Prediction(x0, "x0"), state, scheduler.t[row : row + 1], noise=noise, data_rms=None)
        eps = (x - scheduler.alpha[row] * x0) / scheduler.sigma[row]
        inputs = torch.cat([torch.stack([x, x0, eps, noise]), slots])
        expected = torch.einsum("oi,i...->o...", scheduler.matrix[row], inputs)
        actual = torch.cat([moved.x[None], moved.state.slots])
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_x_is_contiguous_whatever_the_layout_of_the_networks_output() -> None:
    sampler, x = samplers.ddim(scaled_linear(), steps=6), normal(*SHAPE)
    output = normal(*SHAPE, seed=1)
    moved = one_step(sampler, 2, x, Prediction(output.contiguous(memory_format=torch.channels_last), "x0")).x
    assert moved.is_contiguous()
    assert torch.equal(moved, one_step(sampler, 2, x, Prediction(output, "x0")).x)


def test_a_row_that_does_not_read_x_has_a_gradient_of_zeros() -> None:
    sampler, x = samplers.ddim(scaled_linear(), steps=6), normal(*SHAPE).requires_grad_()
    state, t = at_row(sampler, 5)
    moved = mean(sampler.scheduler, x, Prediction(normal(*SHAPE), "x0"), state, t)
    (gradient,) = torch.autograd.grad(moved.sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


def test_a_table_without_values_is_applied() -> None:
    sampler, x = samplers.ddim(scaled_linear(), steps=6), torch.empty(*SHAPE, device="meta")
    scheduler = sampler.scheduler
    columns = {name: getattr(scheduler, name).to("meta") for name in ("matrix", "alpha", "sigma")}
    state, t = at_row(sampler, 2)
    moved = step(replace(scheduler, **columns), x, Prediction(x, "eps"), state, t, data_rms=None)
    assert moved.x.is_meta
    assert moved.x.shape == SHAPE


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_samples_are_independent(name: str) -> None:
    sampler = getattr(samplers, name)(scaled_linear(), steps=6, clip=1.0, threshold=0.9)
    x = normal(*SHAPE)
    together = sample(sampler, x)
    alone = torch.cat([sample(sampler, x[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)


def test_the_row_comes_from_the_state_and_not_from_t() -> None:
    sampler = samplers.ddim(scaled_linear(), steps=5)
    x, prediction = normal(*SHAPE), Prediction(normal(*SHAPE, seed=1), "eps")
    state, t = at_row(sampler, 2)
    right = step(sampler.scheduler, x, prediction, state, t)
    assert torch.equal(step(sampler.scheduler, x, prediction, state, sampler.steps[:1]).x, right.x)
    assert right.state.index.tolist() == [3]


def test_clip_acts_on_x0_and_eps_follows_unless_rederive_eps_is_false() -> None:
    x, eps = normal(*SHAPE), normal(*SHAPE, seed=1)
    following, keeping = (
        samplers.ddim(scaled_linear(), steps=5, clip=True, rederive_eps=rederive) for rederive in (True, False)
    )
    alpha, sigma = following.scheduler.alpha[1], following.scheduler.sigma[1]
    next_alpha, next_sigma = following.scheduler.alpha[2], following.scheduler.sigma[2]
    x0 = ((x - sigma * eps) / alpha).clamp(-1, 1)
    new_eps = (x - alpha * x0) / sigma
    next_x = one_step(following, 1, x, Prediction(eps, "eps")).x
    torch.testing.assert_close(next_x, next_alpha * x0 + next_sigma * new_eps)
    next_x = one_step(keeping, 1, x, Prediction(eps, "eps")).x
    torch.testing.assert_close(next_x, next_alpha * x0 + next_sigma * eps)


def test_dynamic_thresholding_scales_each_sample_by_its_own_quantile() -> None:
    sampler = samplers.dpmpp_2m(scaled_linear(), steps=5, threshold=0.8)
    big = torch.stack([normal(3, 4, 4) * 0.1, normal(3, 4, 4, seed=1) * 5])
    x0 = one_step(sampler, 4, normal(*SHAPE), Prediction(big, "x0")).x  # the last row gives x0 itself
    torch.testing.assert_close(x0[0], big[0])
    edge = torch.quantile(big[1].abs().flatten(), 0.8)
    torch.testing.assert_close(x0[1], big[1].clamp(-edge, edge) / edge)


def test_dynamic_thresholding_is_bounded_by_threshold_max() -> None:
    sampler = samplers.dpmpp_2m(scaled_linear(), steps=5, threshold=0.8, threshold_max=1.5)
    big = 5 * normal(*SHAPE)
    x0 = one_step(sampler, 4, normal(*SHAPE), Prediction(big, "x0")).x  # the last row gives x0 itself
    torch.testing.assert_close(x0, big.clamp(-1.5, 1.5) / 1.5)


@pytest.mark.parametrize("fraction", [-1.0, 0.0, 0.5, 1.0])
def test_learned_variance_interpolates_between_posterior_and_beta(fraction: float) -> None:
    schedule = schedules.linear()
    learned, small, large = (samplers.ddpm(schedule, variance=v) for v in ("learned", "fixed_small", "fixed_large"))
    x, eps, noise = normal(*SHAPE), normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    result = one_step(learned, 400, x, Prediction(eps, "eps", torch.full(SHAPE, fraction)), noise=noise)
    middle = mean(learned.scheduler, x, Prediction(eps, "eps"), *at_row(learned, 400))
    low, high = small.scheduler.score_gain[400], large.scheduler.score_gain[400]
    weight = (fraction + 1) / 2
    std = (low.log() * (1 - weight) + high.log() * weight).mul(0.5).exp()
    torch.testing.assert_close(result.x, middle + std * noise)


def test_a_score_shifts_the_mean_by_the_variance() -> None:
    schedule = schedules.linear()
    x, eps, score = normal(*SHAPE), normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    zero = torch.zeros(SHAPE)
    variance = torch.full(SHAPE, 0.3)
    for kind in ("fixed_small", "fixed_large", "learned"):
        sampler = samplers.ddpm(schedule, variance=kind)  # type: ignore[arg-type]
        prediction = Prediction(eps, "eps", variance)
        plain = one_step(sampler, 500, x, prediction, noise=zero).x
        shifted = one_step(sampler, 500, x, prediction, noise=zero, score=score).x
        gain = one_step(sampler, 500, x, prediction, noise=torch.ones(SHAPE)).x - plain  # the standard deviation
        torch.testing.assert_close(shifted, plain + gain**2 * score)


@pytest.mark.parametrize("build", [samplers.ddim, samplers.euler])
def test_renoise_replaces_eps_alone(build: Any) -> None:
    sampler = build(scaled_linear(), steps=5)
    x, eps, other = normal(*SHAPE), normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    alpha, sigma = sampler.scheduler.alpha, sampler.scheduler.sigma
    next_x = one_step(sampler, 1, x, Prediction(eps, "eps"), renoise=Prediction(other, "eps")).x
    torch.testing.assert_close(next_x, alpha[2] * (x - sigma[1] * eps) / alpha[1] + sigma[2] * other)


@pytest.mark.parametrize("schedule", [scaled_linear(), schedules.flow()])
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - {"heun_flow"}))
def test_renoise_is_for_samplers_that_noise_x0_again_with_eps_alone(name: str, schedule: Schedule) -> None:
    sampler = getattr(samplers, name)(schedule, steps=6)
    prediction, ports = Prediction(normal(*SHAPE), "v"), {"noise": normal(*SHAPE)}
    if name in ("ddim", "euler", "euler_ancestral", "tcd"):
        plain, renoised = (
            one_step(sampler, 1, normal(*SHAPE, seed=1), prediction, **ports, **more).x
            for more in ({}, {"renoise": prediction})
        )
        torch.testing.assert_close(renoised, plain)
    else:
        with pytest.raises(ValueError, match="port 'renoise': this sampler's rows do not noise x̂0 again with ε alone"):
            one_step(sampler, 1, normal(*SHAPE), prediction, **ports, renoise=prediction)


@pytest.mark.parametrize(("narrow", "wide"), [("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")])
def test_the_state_is_float32_at_least(narrow: str, wide: str) -> None:
    sampler = samplers.heun(scaled_linear(), steps=5)
    x, eps = (normal(*SHAPE, seed=seed).to(getattr(torch, narrow)) for seed in (0, 1))
    actual = one_step(sampler, 0, x, Prediction(eps, "eps"))
    expected = one_step(sampler, 0, x.to(getattr(torch, wide)), Prediction(eps, "eps"))
    assert actual.x.dtype == actual.state.slots.dtype == getattr(torch, wide)
    assert torch.equal(actual.x, expected.x)
    start = add_noise(sampler.scheduler, x, eps)
    assert (
        start.dtype == mean(sampler.scheduler, x, Prediction(eps, "eps"), *at_row(sampler, 0)).dtype == actual.x.dtype
    )
    assert torch.equal(start, add_noise(sampler.scheduler, x.to(start.dtype), eps))


@pytest.mark.parametrize(
    ("build", "ports", "message"),
    [
        (samplers.ddpm, {}, "port 'noise': this sampler draws noise at its steps and nothing is wired"),
        (samplers.ddim, {"score": torch.zeros(SHAPE)}, "use guidance.shift_eps"),
        (samplers.dpmpp_2m, {"renoise": Prediction(torch.zeros(SHAPE), "eps")}, "or no ε at all"),
        (samplers.euler, {"prediction": Prediction(torch.zeros(2, 6, 4, 4), "eps")}, r"\(2, 6, 4, 4\) and x has"),
    ],
)
def test_invalid_wiring_is_refused(build: Any, ports: dict[str, Any], message: str) -> None:
    sampler = build(scaled_linear(), steps=5)
    prediction = ports.pop("prediction", Prediction(torch.zeros(SHAPE), "eps"))
    with pytest.raises(ValueError, match=message):
        one_step(sampler, 0, normal(*SHAPE), prediction, **ports)


def test_learned_variance_needs_a_model_that_has_it() -> None:
    sampler = samplers.ddpm(scaled_linear(), steps=5, variance="learned")
    with pytest.raises(ValueError, match="'learned' and the prediction has none"):
        one_step(sampler, 0, normal(*SHAPE), Prediction(normal(*SHAPE), "eps"), noise=normal(*SHAPE))


def test_eps_at_zero_terminal_snr_is_refused() -> None:
    sampler = samplers.ddim(schedules.zero_terminal_snr(scaled_linear()), steps=5, spacing="trailing")
    with pytest.raises(ValueError, match="says nothing of x0"):
        one_step(sampler, 0, normal(*SHAPE), Prediction(normal(*SHAPE), "eps"))


def test_an_error_explains_a_loop_over_another_samplers_steps() -> None:
    sampler = samplers.ddim(scaled_linear(), steps=5)
    state, _ = at_row(sampler, 0)
    late = replace(state, index=torch.tensor([5]))
    with pytest.raises(ValueError, match=r"5 rows and no row 5: the loop must run over the 'steps'"):
        step(sampler.scheduler, normal(*SHAPE), Prediction(normal(*SHAPE), "eps"), late, sampler.steps[:1])


def test_one_traced_step_serves_every_row_and_a_change_of_sampler_is_a_change_of_tables() -> None:
    register_structured()

    class Body(torch.nn.Module):
        def forward(self, sampler: Any, x: Tensor, state: SchedulerState, t: Tensor) -> Step:
            alpha, sigma = scaled_linear().alpha_sigma(t)
            return step(sampler, x, network(x, alpha, sigma), state, t)

    x = normal(1, 3, 4, 4).float()
    example = samplers.ddim(scaled_linear(), steps=10)
    arguments = (
        example.scheduler,
        x,
        SchedulerState(example.state.index, example.state.sized_slots(x)),
        example.steps[:1],
    )
    program = torch.export.export(Body(), arguments, strict=False).module()
    for name, steps in (("ddim", 10), ("pndm", 9), ("dpmpp_2m", 10), ("unipc", 10)):
        sampler: Sampler = getattr(samplers, name)(scaled_linear(), steps=steps)
        tables = {column: getattr(sampler.scheduler, column) for column in Table._fields}
        y, state = x, SchedulerState(sampler.state.index, sampler.state.sized_slots(x))
        for t in sampler.steps.split(1):
            y, state = program(replace(example.scheduler, **tables), y, state, t)
        torch.testing.assert_close(y, sample(sampler, x), atol=1e-5, rtol=1e-5)


def test_a_step_offers_x0_and_a_traced_step_does_not() -> None:
    sampler, x = samplers.ddim(scaled_linear(), steps=8), normal(*SHAPE)
    offered: list[Tensor] = []
    with use_viewer(offered.append):
        one_step(sampler, 2, x, Prediction(x, "x0"))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = mode.from_tensor(x)
            one_step(sampler, 2, fake, Prediction(fake, "x0"))
    (x0,) = offered
    torch.testing.assert_close(x0, x)
