"""A batch whose samples have nothing in common but the network: each is the sample drawn alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guidegraph.nodes.guidance.guidance import classifier_free_guidance, interval
from guidegraph.nodes.guidance.step_context import context
from guidegraph.nodes.sampling import schedule as schedules
from guidegraph.nodes.sampling import scheduler as samplers
from guidegraph.nodes.sampling.noise import gaussian
from guidegraph.nodes.sampling.scheduler import Sampler
from guidegraph.nodes.sampling.scheduler_join import JoinedSampler, join
from guidegraph.nodes.sampling.scheduler_step import add_noise, mean, step
from guidegraph.nodes.shape_checks import expand_to_batch
from guidegraph.nodes.types import Prediction, Schedule, SchedulerState
from guidegraph_runtime.samplers.sampler import SAMPLERS
from tests.nodes.sampling.closed_form import network, scaled_linear

SHAPE = (3, 4, 4)


@dataclass(frozen=True)
class Request:
    """A sample's own solver, seed, guidance scale and interval, and the shift that stands for its prompt."""

    sampler: Sampler
    seed: int
    scale: float = 3.0
    high: float = 1000.0
    shift: float = 0.0


def predict(x: Tensor, t: Tensor, shifts: Tensor, schedule: Schedule, kind: str) -> Prediction:
    """A network with memory of nothing: each sample depends on its own x, t and shift."""
    alpha, sigma = schedule.along(x, expand_to_batch(t, x.shape[0], "t"))
    exact = network(x - shifts, alpha, sigma, kind)
    return replace(exact, variance=torch.tanh(exact.value))


def draw(
    sampler: Sampler | JoinedSampler,
    seeds: list[int],
    scale: Any,
    high: Any,
    shifts: Tensor,
    schedule: Schedule,
    kind: str = "eps",
) -> Tensor:
    """The loop of a workflow with guidance in an interval, for one request or for a batch."""
    x, state = gaussian(seed=seeds, shape=list(SHAPE)).double(), sampler.state
    for i, t in enumerate(sampler.steps if isinstance(sampler, JoinedSampler) else sampler.steps.split(1)):
        cond = predict(x, t, shifts, schedule, kind)
        uncond = predict(x, t, torch.zeros_like(shifts), schedule, kind)
        inside = interval(t, scale=scale, high=high)
        guided = classifier_free_guidance(cond, uncond, scale=inside)
        noise = gaussian(x, i, seed=seeds) if sampler.scheduler.reads_noise else None
        x, state = step(sampler.scheduler, x, guided, state, t, noise=noise)
    return x


def draw_alone(request: Request, schedule: Schedule, kind: str) -> Tensor:
    shifts = torch.full((1, 1, 1, 1), request.shift, dtype=torch.float64)
    return draw(request.sampler, [request.seed], request.scale, request.high, shifts, schedule, kind)


def draw_together(requests: Sequence[Request], schedule: Schedule, kind: str) -> Tensor:
    """All requests as one batch."""
    joined = join([request.sampler.scheduler for request in requests])
    scales = torch.tensor([request.scale for request in requests])
    highs = torch.tensor([request.high for request in requests])
    shifts = torch.tensor([request.shift for request in requests], dtype=torch.float64).reshape(-1, 1, 1, 1)
    return draw(joined, [request.seed for request in requests], scales, highs, shifts, schedule, kind)


def check_each_is_as_alone(requests: Sequence[Request], schedule: Schedule, kind: str = "eps") -> None:
    together = draw_together(requests, schedule, kind)
    for i, request in enumerate(requests):
        alone = draw_alone(request, schedule, kind)
        assert bool(alone.isfinite().all())
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_batch_mixes_every_sampler_with_its_own_seed_steps_scale_and_prompt() -> None:
    schedule = scaled_linear()
    requests = []
    for i, name in enumerate(sorted(SAMPLERS)):
        sampler = getattr(samplers, name)(schedule, steps=3 + i % 5)
        requests.append(Request(sampler, seed=11 * i, scale=1.5 + i / 4, high=500.0 + 30 * i, shift=0.1 * i))
    check_each_is_as_alone(requests, schedule)


def test_a_batch_of_a_flow_mixes_every_sampler() -> None:
    schedule = schedules.flow(train_steps=1000, shift=3.0)
    requests = []
    for i, name in enumerate(sorted(SAMPLERS)):
        try:
            sampler = getattr(samplers, name)(schedule, steps=4 + i % 3)
        except ValueError:
            continue  # a solver of other schedules
        requests.append(Request(sampler, seed=i, scale=1 + i / 3, shift=0.05 * i))
    assert len(requests) > 10
    check_each_is_as_alone(requests, schedule, "flow")


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_one_sampler_at_unlike_steps_and_starts(name: str) -> None:
    schedule, make = scaled_linear(), getattr(samplers, name)
    starts = [{}, {"strength": 0.5}, {}]
    requests = [
        Request(make(schedule, steps=steps, **start), seed=i, scale=i + 1.0)
        for i, (steps, start) in enumerate(zip((9, 8, 4), starts, strict=True))
    ]
    check_each_is_as_alone(requests, schedule)


CLIPPINGS: Sequence[dict[str, Any]] = (
    {},
    {"clip": True},
    {"clip": 0.4},
    {"clip": 0.4, "rederive_eps": False},
    {"threshold": 0.9},
    {"threshold": 0.5, "clip": 0.2},
    {"threshold": 0.99, "clip": 0.3, "threshold_max": 0.35},
)


def test_each_sample_is_clipped_as_its_own_sampler_says() -> None:
    schedule = scaled_linear()
    requests = [Request(samplers.ddim(schedule, steps=6, **clipping), seed=5) for clipping in CLIPPINGS]
    check_each_is_as_alone(requests, schedule)


def test_a_learned_variance_and_fixed_ones_share_a_batch() -> None:
    schedule = scaled_linear()
    kinds = ("learned", "fixed_small", "fixed_large")
    tables = [samplers.ddpm(schedule, steps=6, variance=variance) for variance in kinds]
    tables.append(samplers.ddim(schedule, steps=5))
    check_each_is_as_alone([Request(table, seed=i) for i, table in enumerate(tables)], schedule)


def test_a_sample_may_start_at_no_signal() -> None:
    schedule = schedules.zero_terminal_snr(scaled_linear())
    tables = [samplers.ddim(schedule, steps=5), samplers.ddpm(schedule, steps=4), samplers.dpmpp_2m(schedule, steps=3)]
    check_each_is_as_alone([Request(table, seed=i) for i, table in enumerate(tables)], schedule, "v")


request_settings = st.tuples(
    st.sampled_from(sorted(SAMPLERS)), st.integers(2, 9), st.integers(0, 2**40), st.floats(0, 8), st.floats(-1, 1)
)


@settings(max_examples=15, deadline=None)
@given(st.lists(request_settings, min_size=1, max_size=6))
def test_any_batch_of_requests(batch: list[tuple[str, int, int, float, float]]) -> None:
    schedule = scaled_linear()
    requests = [
        Request(getattr(samplers, name)(schedule, steps=steps), seed=seed, scale=scale, shift=shift)
        for name, steps, seed, scale, shift in batch
    ]
    check_each_is_as_alone(requests, schedule)


def test_the_context_of_each_sample_is_that_of_its_sampler() -> None:
    schedule = scaled_linear()
    tables = [samplers.ddim(schedule, steps=5), samplers.heun(schedule, steps=4)]
    joined = join([table.scheduler for table in tables])
    x = torch.ones(2, *SHAPE, dtype=torch.float64)
    for i in range(5):
        state = replace(joined.state, index=joined.state.index + i)
        together = context(joined.scheduler, x, state, joined.steps[i])
        for sample, table in enumerate(tables):
            row = SchedulerState(torch.tensor([i]), table.state.slots)
            alone = context(table.scheduler, x[:1], row, table.steps[i : i + 1])
            for name in ("t", "alpha", "sigma", "step", "steps"):
                assert getattr(together, name)[sample] == getattr(alone, name)[0], name
            prediction = Prediction(x[:1] / 3, "v")
            both = Prediction(x / 3, "v")
            for convert in ("x0", "eps", "score"):
                pair = getattr(together, convert)(both)[sample], getattr(alone, convert)(prediction)[0]
                torch.testing.assert_close(*pair, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("function", [mean, step])
def test_scores_and_means_are_those_of_each_samples_row(function: Callable[..., Any]) -> None:
    schedule = scaled_linear()
    tables = [samplers.ddpm(schedule, steps=5), samplers.ddpm(schedule, steps=9), samplers.ddim(schedule, eta=0.3)]
    joined = join([table.scheduler for table in tables])
    x = gaussian(seed=[1, 2, 3], shape=list(SHAPE)).double()
    noise = gaussian(seed=[4, 5, 6], shape=list(SHAPE)).double()

    def call(sampler: Sampler, i: slice) -> Tensor:
        ports = {"noise": noise[i], "score": x[i] ** 2} if function is step else {}
        result = function(
            sampler.scheduler, x[i], Prediction(x[i] / 2, "eps"), sampler.state, sampler.steps[:1], **ports
        )
        moved: Tensor = result.x if function is step else result
        return moved

    together = call(joined, slice(None))
    for i, table in enumerate(tables):
        torch.testing.assert_close(together[i : i + 1], call(table, slice(i, i + 1)), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("names", "port"), [(("ddim", "dpmpp_2m"), "renoise"), (("ddpm", "ddim"), "score"), (("ddim", "ddpm"), "score")]
)
def test_a_port_that_one_of_the_samplers_cannot_take_is_refused(names: Sequence[str], port: str) -> None:
    joined = join([getattr(samplers, name)(scaled_linear(), steps=3).scheduler for name in names])
    x = torch.zeros(2, *SHAPE)
    ports: dict[str, Any] = {"noise": x, port: Prediction(x, "eps") if port == "renoise" else x}
    with pytest.raises(ValueError, match=f"port '{port}'"):
        step(joined.scheduler, x, Prediction(x, "eps"), joined.state, joined.steps[0], **ports)


def test_the_noise_of_one_sampler_is_renoised_while_a_shorter_one_waits() -> None:
    tables = [samplers.ddim(scaled_linear(), steps=2), samplers.euler(scaled_linear(), steps=4)]
    joined = join([table.scheduler for table in tables])
    x, other = gaussian(seed=[1, 2], shape=list(SHAPE)).double(), gaussian(seed=[3, 4], shape=list(SHAPE)).double()
    state = replace(joined.state, index=joined.state.index + 2)
    together = step(
        joined.scheduler, x, Prediction(x / 2, "eps"), state, joined.steps[2], renoise=Prediction(other, "eps")
    )
    row = replace(tables[1].state, index=torch.tensor([2]))
    alone = step(
        tables[1].scheduler,
        x[1:],
        Prediction(x[1:] / 2, "eps"),
        row,
        tables[1].steps[2:3],
        renoise=Prediction(other[1:], "eps"),
    )
    torch.testing.assert_close(together.x, torch.cat([x[:1], alone.x]))


def test_noise_is_added_at_the_level_of_each_samples_next_row() -> None:
    schedule = scaled_linear()
    tables = [samplers.ddim(schedule, steps=5), samplers.euler(schedule, steps=5)]
    joined = join([table.scheduler for table in tables])
    x0, noise = torch.full((2, *SHAPE), 0.5, dtype=torch.float64), torch.ones(2, *SHAPE, dtype=torch.float64)
    state = replace(joined.state, index=joined.state.index + 2)
    noisy = add_noise(joined.scheduler, x0, noise, state)
    for i, table in enumerate(tables):
        alone = add_noise(table.scheduler, x0[:1], noise[:1], replace(table.state, index=torch.tensor([2])))
        torch.testing.assert_close(noisy[i : i + 1], alone)


def test_noise_is_added_from_the_start_to_the_end_of_each_sampler() -> None:
    schedule = scaled_linear()
    tables = [samplers.ddim(schedule, steps=2), samplers.euler(schedule, steps=4)]
    joined = join([table.scheduler for table in tables])
    x0, noise = torch.full((2, *SHAPE), 0.5), torch.ones(2, *SHAPE)
    torch.testing.assert_close(
        add_noise(joined.scheduler, x0, noise), add_noise(joined.scheduler, x0, noise, joined.state)
    )
    for row in range(5):
        noisy = add_noise(joined.scheduler, x0, noise, replace(joined.state, index=joined.state.index + row))
        for i, table in enumerate(tables):
            own_row = torch.tensor([min(row, len(table.steps))])
            alone = add_noise(table.scheduler, x0[:1], noise[:1], replace(table.state, index=own_row))
            torch.testing.assert_close(noisy[i : i + 1], alone)


def test_a_sampler_that_has_ended_keeps_x_and_its_slots() -> None:
    schedule = scaled_linear()
    short, long = samplers.unipc(schedule, steps=2), samplers.unipc(schedule, steps=5)
    joined = join([short.scheduler, long.scheduler])
    x, slots = torch.randn(2, *SHAPE).double(), torch.randn(4, 2, *SHAPE).double()
    state = SchedulerState(joined.state.index + 3, slots)
    moved, after = step(joined.scheduler, x, Prediction(x / 2, "eps"), state, joined.steps[3])
    assert torch.equal(moved[0], x[0])
    assert torch.equal(after.slots[:, 0], slots[:, 0])
    assert not torch.equal(moved[1], x[1])


def test_errors_name_what_does_not_fit() -> None:
    schedule = scaled_linear()
    joined = join([samplers.ddim(schedule, steps=3).scheduler] * 2)
    x = torch.zeros(3, *SHAPE)
    with pytest.raises(ValueError, match="rows for 2 samples and x has 3: give one row for all or for each"):
        step(joined.scheduler, x, Prediction(x, "eps"), joined.state, joined.steps[0])
    with pytest.raises(ValueError, match="the sampler's row has shape"):
        context(joined.scheduler, x, joined.state, torch.zeros(1))
    late = replace(joined.state, index=torch.tensor([2, 6]))
    with pytest.raises(ValueError, match="no row 6"):
        step(joined.scheduler, x[:2], Prediction(x[:2], "eps"), late, joined.steps[0])
    with pytest.raises(ValueError, match="no samplers to join"):
        join([])
    with pytest.raises(ValueError, match="already of several"):
        join([joined.scheduler, samplers.ddim(schedule, steps=3).scheduler])
    with pytest.raises(ValueError, match="of form variance_preserving and flow take different samples"):
        join([samplers.ddim(schedule, steps=3).scheduler, samplers.ddim(schedules.flow(), steps=3).scheduler])
